"""The swarm as this machine sees it: who serves which blocks, how far away, and what would break it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, cast

from rich.text import Text
from textual import on
from textual.app import ComposeResult, SystemCommand
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.screen import Screen
from textual.widgets import DataTable, Footer, Static

from peerllm.errors import PeerllmError, UnknownRequest
from peerllm.local.accounts import RequestAccount
from peerllm.local.client import LocalClient
from peerllm.local.inert_text import inert
from peerllm.local.schema import SwarmInfo
from peerllm_tui.block_map import block_map
from peerllm_tui.coverage_risk import coverage_risk, risk_text
from peerllm_tui.peer_table import COLUMNS, sorted_peers
from peerllm_tui.route_text import MOST_HOPS, route_text
from peerllm_tui.served_models import ModelKey, ServedModel, served_models
from peerllm_tui.swarm_text import MODEL_CHARS, about, cell, legend, line, line_of, model_choice, where
from peerllm_tui.watch import HasDaemon, Watch

_FEW_HOPS = 2
_LIVE_S = 0.5
"""Between looks at the route of a running answer, of which no event tells."""
_MARGIN = 3  # columns beside the map: its padding and its scroll bar


@dataclass(frozen=True)
class SwarmLook:
    """What one look at the daemon brought; `running` is the answer under way, `last` the one that ended last."""

    swarm: SwarmInfo
    models: tuple[ServedModel, ...]
    running: RequestAccount | None
    last: RequestAccount | None

    @classmethod
    def through(cls, client: LocalClient) -> SwarmLook:
        swarm = client.swarm()
        models = served_models(swarm.peers, client.records().records)
        return cls(swarm, models, _account(client, "running"), _account(client, "last"))


class SwarmScreen(Screen[None]):
    """Block map, coverage risk, route of the last answer, and a table of the peers; alive while it is shown."""

    TITLE = "Swarm"
    VERTICAL_BREAKPOINTS = [(0, "-short"), (22, "-tall")]  # noqa: RUF012  Textual declares it without ClassVar
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("s", "sort", "Sort"),
        Binding("r", "reverse", "Reverse"),
        Binding("m", "next_model", "Model"),
    ]
    CSS = """
    SwarmScreen { layout: vertical; }
    SwarmScreen #where { height: auto; max-height: 2; padding: 0 1; link-style: none; }
    SwarmScreen.-short #where { max-height: 1; }
    SwarmScreen.-short.-away #where { max-height: 3; }
    SwarmScreen #map-box { height: auto; max-height: 35%; padding: 0 1; scrollbar-size-vertical: 1; }
    SwarmScreen.-short #map-box { max-height: 5; }
    SwarmScreen #map { width: 1fr; height: auto; }
    SwarmScreen #legend, SwarmScreen #risk, SwarmScreen #route, SwarmScreen #peer { height: auto; padding: 0 1; }
    SwarmScreen #risk, SwarmScreen #route { max-height: 3; }
    SwarmScreen.-short #risk, SwarmScreen.-short #route { max-height: 2; }
    SwarmScreen.-short #legend { display: none; }
    SwarmScreen #legend { color: $text-muted; }
    SwarmScreen #peers { height: 1fr; min-height: 3; scrollbar-size-vertical: 1; }
    SwarmScreen.-short #peers { scrollbar-size-horizontal: 0; }
    SwarmScreen #peer { max-height: 3; color: $text-muted; }
    SwarmScreen.-short #peer { max-height: 1; }
    SwarmScreen.-away #map, SwarmScreen.-away #peers { opacity: 50%; }
    """

    def __init__(self) -> None:
        super().__init__()
        self._watch: Watch[SwarmLook] | None = None
        self._look: SwarmLook | None = None
        self._chosen: ModelKey | None = None
        self._column = COLUMNS[1]
        self._backwards = False

    def compose(self) -> ComposeResult:
        yield Static("looking for the daemon …", id="where", markup=False)
        with VerticalScroll(id="map-box", can_focus=False):
            yield Static(id="map", markup=False)
        yield Static(legend(), id="legend")
        yield Static(id="risk", markup=False)
        yield Static(id="route", markup=False)
        yield DataTable[Text](id="peers", cursor_type="row", zebra_stripes=True)
        yield Static(id="peer", markup=False)
        yield Footer()

    def on_mount(self) -> None:
        self._table.focus()

    def on_screen_resume(self) -> None:
        self._watch = Watch(cast("HasDaemon", self.app).daemon, SwarmLook.through, self._show)
        self.run_worker(self._watch.run(), group="watch", exclusive=True)

    def on_screen_suspend(self) -> None:
        self.workers.cancel_group(self, "watch")

    def on_resize(self) -> None:
        self.call_after_refresh(self._show_model)
        self.call_after_refresh(self._show_route)

    def get_commands(self) -> Iterable[SystemCommand]:
        """What the palette offers for this screen."""
        yield SystemCommand("Sort peers by the next column", "s", self.action_sort)
        yield SystemCommand("Reverse the order of peers", "r", self.action_reverse)
        yield SystemCommand("Show the next model", "m", self.action_next_model)

    def action_sort(self) -> None:
        self._column = COLUMNS[(COLUMNS.index(self._column) + 1) % len(COLUMNS)]
        self._backwards = False
        self._show_peers()

    def action_reverse(self) -> None:
        self._backwards = not self._backwards
        self._show_peers()

    def action_next_model(self) -> None:
        if self._look and self._model:
            self.action_show_model(self._look.models.index(self._model) + 1)

    def action_show_model(self, number: int) -> None:
        """The model of that number in the line of models, from 0 and round again."""
        if self._look and self._look.models:
            self._chosen = self._look.models[number % len(self._look.models)].key
            self._show_model()

    @on(DataTable.HeaderSelected)
    def _sort_by_header(self, event: DataTable.HeaderSelected) -> None:
        column = COLUMNS[event.column_index]
        self._backwards = column is self._column and not self._backwards
        self._column = column
        self._show_peers()

    @on(DataTable.RowHighlighted)
    def _show_peer(self, event: DataTable.RowHighlighted) -> None:
        peers = self._look.swarm.peers if self._look else ()
        peer = next((peer for peer in peers if peer.peer_id == event.row_key.value), None)
        self.query_one("#peer", Static).update(about(peer) if peer else "")

    @property
    def _table(self) -> DataTable[Text]:
        return cast("DataTable[Text]", self.query_one("#peers", DataTable))

    def _show(self, look: SwarmLook | PeerllmError) -> None:
        self.set_class(isinstance(look, PeerllmError), "-away")
        if isinstance(look, PeerllmError):
            self.query_one("#where", Static).update(Content.styled(inert(str(look)), "bold $error"))
            return
        self._look = look
        self._show_model()
        self._show_peers()
        self._show_route()
        if look.running and self._watch is not None:
            self.set_timer(_LIVE_S, self._watch.hasten)

    @property
    def _model(self) -> ServedModel | None:
        """The chosen one as long as it is there."""
        models = self._look.models if self._look else ()
        chosen = next((model for model in models if model.key == self._chosen), None)
        return chosen or next(iter(models), None)

    def _show_model(self) -> None:
        if self._look is None:
            return
        chosen, shown = self._model, self.query_one("#map", Static)
        if chosen is None:
            shown.update("nobody in view lends anything yet")
            self.query_one("#risk", Static).update("")
        else:
            shown.update(Content("\n").join(map(line_of, block_map(chosen, self.size.width - _MARGIN))))
            risk = coverage_risk(chosen)
            style = "bold $error" if risk.holes else "$warning" if risk.alone else "$success"
            self.query_one("#risk", Static).update(line(inert(chosen.name, MODEL_CHARS), risk_text(chosen), style))
        if not self.has_class("-away"):
            heading = Content("  ").join([where(self._look.swarm), *model_choice(self._look.models, chosen)])
            self.query_one("#where", Static).update(heading)

    def _show_route(self) -> None:
        if self._look is None:
            return
        account = self._look.running or self._look.last
        words = "nothing was answered since the daemon started"
        if account is not None:
            words = route_text(account, most_hops=_FEW_HOPS if self.has_class("-short") else MOST_HOPS)
        title = "answering now" if self._look.running else "last answer"
        self.query_one("#route", Static).update(line(title, words, "$success" if self._look.running else ""))

    def _show_peers(self) -> None:
        """The rows anew; the cursor stays at its peer."""
        if self._look is None:
            return
        table = self._table
        at = table.cursor_row
        chosen = table.ordered_rows[at].key.value if table.is_valid_row_index(at) else None
        table.clear(columns=True)
        arrow = " ▼" if self._backwards else " ▲"
        for column in COLUMNS:
            table.add_column(Text(column.title + (arrow if column is self._column else "")), key=column.key)
        for peer in sorted_peers(self._look.swarm.peers, self._column, backwards=self._backwards):
            table.add_row(*(cell(column, peer) for column in COLUMNS), key=peer.peer_id)
        if chosen is not None and chosen in table.rows:
            table.move_cursor(row=table.get_row_index(chosen), scroll=False)


def _account(client: LocalClient, name: str) -> RequestAccount | None:
    try:
        return client.request(name)
    except UnknownRequest:
        return None
