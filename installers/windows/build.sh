#!/bin/sh
# Build the Windows installer on Linux, with makensis (apt install nsis).
# usage: installers/windows/build.sh [FOLDER]   (default: dist)
# Environment: PYTHON, with the extras dev and desktop installed (default: .venv/bin/python); WHEEL, to take that one.
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
here=$root/installers/windows
out=$(mkdir -p "${1:-$root/dist}" && cd "${1:-$root/dist}" && pwd)
python=${PYTHON:-$root/.venv/bin/python}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
die() { echo "build.sh: $*" >&2; exit 1; }

command -v makensis >/dev/null || die 'makensis is missing: apt install nsis'
wheel=${WHEEL:-}
if [ -z "$wheel" ]; then
    "$python" -m build --no-isolation --wheel --outdir "$work/wheel" "$root" >"$work/log" 2>&1 ||
        { cat "$work/log" >&2; die 'the wheel could not be built'; }
    wheel=$(ls "$work"/wheel/*.whl)
fi
name=$(basename "$wheel")
version=$(echo "$name" | cut -d- -f2)
cp "$wheel" "$work/$name"
"$python" "$root/installers/icon.py" "$work"
# what cmd and the wizard read has Windows' line ends
for file in peerllm.cmd install-wsl.cmd start-hidden.vbs; do
    sed -e "s/@WHEEL@/$name/" -e 's/$/\r/' "$here/$file" >"$work/$file"
done
sed 's/$/\r/' "$root/LICENSE" >"$work/LICENSE.txt"
installer=$out/peerllm-$version-setup.exe
makensis -V2 -WX "-DVERSION=$version" "-DWHEEL=$name" "-DBUILD=$work" "-DOUT=$installer" "$here/peerllm.nsi" >&2
echo "$installer"
