#!/bin/sh
# The browser that tests/system/services/page drives, from Debian's packages. Those tests are skipped where there is none, so
# nothing here is an error: not root, no apt, no network.
set -eu
for name in chromium chromium-browser google-chrome google-chrome-stable; do
    if command -v "$name" >/dev/null 2>&1; then exit 0; fi
done
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null 2>&1; then
    echo "no browser: the tests of the page will be skipped (Debian: apt install chromium)"
    exit 0
fi
export DEBIAN_FRONTEND=noninteractive
if ! { apt-get -qq update && apt-get -qq install --yes --no-install-recommends chromium; } >/dev/null 2>&1; then
    echo "chromium could not be installed: the tests of the page will be skipped"
fi
