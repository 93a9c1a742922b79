#!/usr/bin/env bash
# A headless Chromium in a folder, for the tests of web pages, from Debian packages.
#
#   tests/kit/browser.sh FOLDER
#
# Packages are unpacked, not installed: nothing outside of FOLDER changes, and it needs no root. FOLDER gets 0.3 GB. A
# browser that the machine has is taken instead.
set -euo pipefail
[ $# = 1 ] || { echo "browser.sh: expected FOLDER" >&2; exit 1; }
for name in chromium-headless-shell chromium chromium-browser google-chrome; do
    command -v "$name" > /dev/null && exit 0
done
command -v apt-get > /dev/null || { echo "browser.sh: no Chromium, and no apt-get to fetch one" >&2; exit 1; }
mkdir -p "$1/lists/partial"
folder=$(cd "$1" && pwd)
options=(-o "Dir::State::lists=$folder/lists" -o APT::Sandbox::User= -o Debug::NoLocking=1 -o Acquire::Retries=3 -o Acquire::Languages=none)
apt-get "${options[@]}" -qq update
# The libraries that this machine lacks come along.
packages=$(apt-get "${options[@]}" install --simulate --no-install-recommends chromium-headless-shell fonts-dejavu-core | awk '/^Inst/ {print $2}')
cd "$folder"
# shellcheck disable=SC2086 # words
apt-get "${options[@]}" -qq download $packages
for package in ./*.deb; do
    dpkg-deb -x "$package" root
    rm "$package"
done
