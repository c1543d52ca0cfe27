#!/bin/sh
# Build the macOS package: on a Mac only, with the command line tools of Xcode. Not run by this project's tests.
# usage: installers/macos/build_pkg.sh [FOLDER]   (default: dist)
# Environment: PYTHON, with the extras dev and desktop installed (default: .venv/bin/python);
#              TARGET_PYTHON, which will run the package (default: /usr/local/bin/python3, as python.org installs it);
#              SIGN, the name of a "Developer ID Installer" certificate, and SIGN_CODE, of a "Developer ID Application"
#              one (default: unsigned).
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
here=$root/installers/macos
out=$(mkdir -p "${1:-$root/dist}" && cd "${1:-$root/dist}" && pwd)
python=${PYTHON:-$root/.venv/bin/python}
target=${TARGET_PYTHON:-/usr/local/bin/python3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
die() { echo "build_pkg.sh: $*" >&2; exit 1; }

[ "$(uname -s)" = Darwin ] || die 'macOS is needed: pkgbuild is a part of it'
command -v pkgbuild >/dev/null || die 'pkgbuild is missing: xcode-select --install'
plutil -lint "$here/org.peerllm.daemon.plist" "$here/entitlements.plist"

"$python" -m build --no-isolation --wheel --outdir "$work/wheel" "$root"
wheel=$(ls "$work"/wheel/*.whl)
version=$(basename "$wheel" | cut -d- -f2)
lib=$work/tree/usr/local/lib/peerllm
mkdir -p "$lib/wheel" "$work/tree/usr/local/bin" "$work/tree/usr/local/share/peerllm"
"$python" -m pip --python "$target" install --quiet --no-compile --only-binary :all: --target "$lib" \
    --constraint "$root/constraints.txt" "$wheel[chat,desktop]"
rm -rf "$lib/bin" "$lib/share"
cp "$wheel" "$lib/wheel/"
cp "$root/installers/linux/run_folder.py" "$lib/__main__.py"
printf '#!/bin/sh\nexec %s -I /usr/local/lib/peerllm "$@"\n' "$target" >"$work/tree/usr/local/bin/peerllm"
chmod 755 "$work/tree/usr/local/bin/peerllm"
# an administrator may put it into /Library/LaunchAgents; a user says: peerllm service install
cp "$here/org.peerllm.daemon.plist" "$work/tree/usr/local/share/peerllm/"

# Only what is signed by a known developer runs without a question; libraries keep their own signatures.
if [ -n "${SIGN_CODE:-}" ]; then
    find "$lib" -name '*.so' -exec codesign --force --options runtime --entitlements "$here/entitlements.plist" \
        --sign "$SIGN_CODE" {} +
fi
package=$out/peerllm-$version.pkg
pkgbuild --root "$work/tree" --identifier org.peerllm --version "$version" --install-location / \
    ${SIGN:+--sign "$SIGN"} "$package"
echo "$package"
