#!/bin/sh
# Fetches what `make test-phone` compares with, into a folder:
#
#   set_up.sh PYTHON FOLDER
#
# FOLDER/runtimes/NAME holds an older runtime each, for PYTHONPATH; FOLDER/arm64
# QEMU, an ARM Python and the ARM wheels. Installs nothing on the machine. What
# this Python or this machine has no packages for is left out, and its tests are
# skipped. ARM needs Debian or Ubuntu with Debian's key ring and lists of
# packages (`apt-get update`): QEMU before version 10 crashes on LiteRT's wheel.
set -u

python=$1
mkdir -p "$2"
folder=$(cd "$2" && pwd)
suite=trixie
arm_python=3.13

install() {
    "$python" -m pip install -q --disable-pip-version-check --no-deps \
        --only-binary=:all: --target "$@" || { echo "not compared: $1"; rm -rf "$1"; }
}

for runtime in ai-edge-litert==1.0.1 ai-edge-litert==1.4.0 \
    ai-edge-litert==2.0.3 tflite-runtime==2.14.0; do
    install "$folder/runtimes/$runtime" "$runtime" numpy==1.26.4 flatbuffers
done

# apt for another architecture, with a state of its own.
private_apt() {
    architecture=$1
    shift
    "$@" -q -y -o Dir::Etc::sourcelist="$apt/sources.list" \
        -o Dir::Etc::sourceparts=/dev/null -o Dir::Etc::parts=/dev/null \
        -o Dir::Etc::preferencesparts=/dev/null -o Dir::State="$apt" \
        -o Dir::State::status="$apt/status" -o Dir::Cache="$apt/cache" \
        -o APT::Architecture="$architecture" \
        -o APT::Architectures="$architecture" -o APT::Sandbox::User= \
        -o Acquire::Languages=none -o Debug::NoLocking=1
}

arm64() {
    apt=$folder/apt
    host=$(dpkg --print-architecture)
    mirror=$(apt-get indextargets --format '$(REPO_URI)' \
        'Created-By: Packages' 'Label: Debian' | head -n 1)
    test -n "$mirror" || return 1
    mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial" \
        "$folder/arm64/root/usr/lib"
    : >"$apt/status"
    echo "deb [arch=arm64,$host signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main" \
        >"$apt/sources.list"
    private_apt "$host" apt-get update &&
        (cd "$apt" && private_apt "$host" apt-get download qemu-user) &&
        dpkg-deb -x "$apt"/qemu-user_*.deb "$apt/qemu" &&
        mv "$apt/qemu/usr/bin/qemu-aarch64" "$folder/arm64" &&
        private_apt arm64 apt-get update &&
        private_apt arm64 apt-get install --download-only \
            --no-install-recommends "python$arm_python-minimal" \
            "libpython$arm_python-stdlib" libstdc++6 || return 1
    # Where the loader is looked for; base-files would make this link.
    ln -sfn usr/lib "$folder/arm64/root/lib"
    for package in "$apt"/cache/archives/*.deb; do
        dpkg-deb -x "$package" "$folder/arm64/root" || return 1
    done
    install "$folder/arm64/site" --implementation cp \
        --python-version "$arm_python" --platform manylinux_2_28_aarch64 \
        --platform manylinux_2_27_aarch64 --platform manylinux2014_aarch64 \
        ai-edge-litert==2.3.0 numpy==2.4.6
    test -d "$folder/arm64/site"
}

arm64 >"$folder/arm64.log" 2>&1 || {
    echo "not compared: ARM64; see $folder/arm64.log"
    rm -rf "$folder/arm64"
}
rm -rf "$folder/apt"
