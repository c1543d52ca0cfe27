#!/bin/sh
# Build the .deb: the clients with their libraries, and the wheel from which `peerllm setup` installs the daemon.
# usage: installers/linux/build_deb.sh [FOLDER]   (default: dist)
# Environment: PYTHON, with the extras dev and desktop installed (default: .venv/bin/python);
#              TARGET_PYTHON, which will run the package (default: /usr/bin/python3);
#              WHEEL, to take that one instead of building it; REVISION of the package (default: 1).
set -eu
umask 022
root=$(cd "$(dirname "$0")/../.." && pwd)
here=$root/installers/linux
out=$(mkdir -p "${1:-$root/dist}" && cd "${1:-$root/dist}" && pwd)
python=${PYTHON:-$root/.venv/bin/python}
target=${TARGET_PYTHON:-/usr/bin/python3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
die() { echo "build_deb.sh: $*" >&2; exit 1; }

command -v dpkg-deb >/dev/null || die 'dpkg-deb is missing: apt install dpkg'
"$python" -c 'import PIL, build, hatchling, shtab' 2>/dev/null ||
    die "$python lacks the extras dev and desktop: pip install -e '.[dev,desktop]'"
[ -x "$target" ] || die "$target is missing: apt install python3"
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git -C "$root" log -1 --format=%ct 2>/dev/null || date +%s)}
export SOURCE_DATE_EPOCH

wheel=${WHEEL:-}
if [ -z "$wheel" ]; then
    "$python" -m build --no-isolation --wheel --outdir "$work/wheel" "$root" >"$work/log" 2>&1 ||
        { cat "$work/log" >&2; die 'the wheel could not be built'; }
    wheel=$(ls "$work"/wheel/*.whl)
fi
released=$("$python" -c 'import sys, zipfile, re
metadata = next(n for n in zipfile.ZipFile(sys.argv[1]).namelist() if n.endswith(".dist-info/METADATA"))
print(re.search("(?m)^Version: (.*)$", zipfile.ZipFile(sys.argv[1]).read(metadata).decode())[1])' "$wheel")
version=$(echo "$released" | sed -E 's/\.?(a|b|rc|dev)([0-9])/~\1\2/')-${REVISION:-1}
architecture=$(dpkg --print-architecture)
minor=$("$target" -c 'import sys; print(sys.version_info.minor)')

tree=$work/tree
lib=$tree/usr/lib/peerllm
doc=$tree/usr/share/doc/peerllm
mkdir -p "$lib/wheel" "$doc" "$tree/DEBIAN" "$tree/usr/bin"

# Binary wheels fit one Python: the target's own, though the pip is ours.
"$python" -m pip --python "$target" install --quiet --disable-pip-version-check --no-compile --only-binary :all: \
    --no-input --root-user-action ignore --target "$lib" --constraint "$root/constraints.txt" "$wheel[chat,desktop]" >"$work/log" 2>&1 ||
    { cat "$work/log" >&2; die 'pip could not fetch the libraries of the clients'; }
rm -rf "$lib/bin" "$lib/share" "$lib"/*/tests "$lib"/*/test "$lib"/*/*/tests
find "$lib" -name '*.so*' -type f -exec chmod a-x {} +
cp "$wheel" "$lib/wheel/"
cp "$here/run_folder.py" "$lib/__main__.py"
install -m 755 "$here/peerllm.sh" "$tree/usr/bin/peerllm"

icons=$tree/usr/share/icons/hicolor
"$python" "$root/installers/icon.py" "$work/icons"
install -D -m 644 "$work/icons/peerllm.svg" "$icons/scalable/apps/peerllm.svg"
for png in "$work"/icons/peerllm-*.png; do
    size=$(basename "$png" .png | cut -d- -f2)
    install -D -m 644 "$png" "$icons/${size}x$size/apps/peerllm.png"
done
install -D -m 644 "$here/peerllm.desktop" "$tree/usr/share/applications/peerllm.desktop"
install -D -m 644 "$here/peerllm-autostart.desktop" "$tree/usr/share/peerllm/autostart/peerllm.desktop"

cd "$root"
mkdir -p "$tree/usr/lib/systemd/user" "$tree/usr/share/man/man1"
"$python" -c 'from peerllm.service.systemd_unit import systemd_unit; print(systemd_unit(("/usr/bin/peerllm",)), end="")' \
    >"$tree/usr/lib/systemd/user/peerllm.service"
"$python" "$here/man_page.py" | gzip -9n >"$tree/usr/share/man/man1/peerllm.1.gz"
completion() { # SHELL FILE
    mkdir -p "$(dirname "$tree/usr/share/$2")"
    "$python" -m shtab --shell "$1" --prog peerllm peerllm.cli.parser.build_parser >"$tree/usr/share/$2"
}
completion bash bash-completion/completions/peerllm
completion zsh zsh/vendor-completions/_peerllm
completion fish fish/vendor_completions.d/peerllm.fish

"$python" "$here/copyright_file.py" "$lib" >"$doc/copyright"
{
    echo "peerllm ($version) unstable; urgency=medium"
    printf '\n  * Built from the source of this release; see its CHANGELOG.md.\n\n'
    echo " -- the peerllm authors <peerllm@localhost.invalid>  $(date -u -R -d "@$SOURCE_DATE_EPOCH")"
} | gzip -9n >"$doc/changelog.Debian.gz"
install -D -m 644 "$here/lintian-overrides" "$tree/usr/share/lintian/overrides/peerllm"

sed -e "s/@VERSION@/$version/" -e "s/@ARCHITECTURE@/$architecture/" -e "s/@PYTHON@/3.$minor/" \
    -e "s/@NEXT@/3.$((minor + 1))/" -e "s/@SIZE@/$(du -sk "$tree/usr" | cut -f1)/" "$here/control.in" >"$tree/DEBIAN/control"
install -m 755 "$here/postinst" "$here/prerm" "$tree/DEBIAN/"
chmod -R u+rwX,go+rX,go-w "$tree"
(cd "$tree" && find usr -type f -exec md5sum {} + | sort -k 2 >DEBIAN/md5sums && chmod 644 DEBIAN/md5sums)
find "$tree" -newermt "@$SOURCE_DATE_EPOCH" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +

deb=$out/peerllm_${version}_$architecture.deb
dpkg-deb --root-owner-group ${COMPRESSION:+-Z"$COMPRESSION"} --build "$tree" "$deb" >/dev/null
echo "$deb"
