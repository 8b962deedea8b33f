#!/usr/bin/env bash
# Sets up what is missing, builds the demo, boots each scenario under QEMU and has each boot checked by the witness.
# Usage: see `usage` below. The guest's console goes to stdout, all else to stderr, except for the witness's findings
# and the sum, which is the last line.
set -euo pipefail

usage='usage: qemu-run.sh [x86_64|aarch64|ELF] [--qemu 10|11|BINARY] [--scenario NAME|all] [--list] [--setup]
                   [-- EXTRA QEMU ARGS]'

# Callers such as `cargo test` and `cargo llvm-cov` set variables that change what a build inside of them makes: other
# flags, another compiler, another target folder. The demo must be the one that plain `cargo build` makes.
for variable in $(compgen -e); do
    case $variable in
    CARGO_BUILD_JOBS) ;;
    CARGO_BUILD_* | CARGO_TARGET_* | CARGO_PROFILE_* | CARGO_UNSTABLE_* | CARGO_ENCODED_*) unset "$variable" ;;
    RUSTFLAGS | RUSTC | RUSTC_* | RUSTUP_TOOLCHAIN) unset "$variable" ;;
    esac
done

# The folder that the caller's relative paths start from; cargo and all paths of our own start from the workspace.
called_from=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")"
# shellcheck source=tools/setup.sh
source tools/setup.sh

# ---- what each architecture offers -----------------------------------------------------------------------------

scenarios_of() {
    case $1 in
    x86_64) printf '%s\n' second-stage first-stage legacy adi ;;
    aarch64) printf '%s\n' stage-1 stage-2 nested adi ;;
    esac
}

# Sets `machine` to QEMU's arguments for architecture $1 and scenario $2.
describe_machine() {
    case $1 in
    x86_64) describe_q35 "$2" ;;
    aarch64) describe_virt ;;
    esac
}

# The IOMMU of architecture $1, as QEMU names it.
iommu_of() {
    case $1 in
    x86_64) printf intel-iommu ;;
    aarch64) printf arm-smmuv3 ;;
    esac
}

# Four functions that do DMA, the last of them behind a bridge; `machine` goes on with them.
add_functions() {
    local edu=dma_mask=0xffffffffffffffff
    machine+=(
        -device "edu,id=edu0,bus=pcie.0,addr=0x4,$edu"
        -device "edu,id=edu1,bus=pcie.0,addr=0x5,$edu"
        -device "edu,id=edu2,bus=pcie.0,addr=0x6,$edu"
        -device 'pcie-pci-bridge,id=bridge0,bus=pcie.0,addr=0x7'
        -device "edu,id=edu3,bus=bridge0,addr=0x1,$edu"
    )
}

# q35 with VT-d. Nothing that a user may want to change by `-global` is given on -device, where it would win.
describe_q35() {
    local iommu=intel-iommu scalable=scalable-mode=on first=fsts=on pasids=pasid-bits=20 memory=4G doorbell=() properties
    # Newer versions of QEMU renamed these without an alias, so ask which ones this binary has.
    properties=$("$qemu" -M q35 -device intel-iommu,help </dev/null 2>&1 || true)
    if [[ $properties == *x-scalable-mode=* ]]; then
        scalable=x-scalable-mode=on first=x-flts=on pasids=x-pasid-mode=on
    fi
    # QEMU offers one kind of table a run: second-stage, or first-stage in its place. Without scalable mode the unit is
    # one of legacy mode.
    case $1 in
    second-stage) iommu+=,$scalable ;;
    first-stage) iommu+=,$scalable,$first ;;
    adi)
        iommu+=,$scalable,$pasids
        # For three partitions.
        memory=5G
        # In the middle of edu0's registers, where it has none of its own. The demo looks for it.
        doorbell=(-plugin "file=$plugin,device=edu0,region=edu-mmio[0],offset=0x80000")
        ;;
    esac

    machine=(
        # With icount, guest time is counted in instructions: edu's 100 ms a transfer then cost next to nothing while
        # the guest halts, and two runs are alike.
        -M q35 -cpu max -m "$memory" -accel tcg -icount 'shift=10,sleep=off'
        -serial stdio -serial "file:$out.jsonl"
        -device 'isa-debug-exit,iobase=0xf4,iosize=4'
        # Before the PCI functions: those that are created earlier do not go through it.
        -device "$iommu"
        -trace 'vtd_*'
        ${doorbell[@]+"${doorbell[@]}"}
    )
    add_functions
    # The guest ends by writing 0x10 to isa-debug-exit, which makes this of it; a panic writes something else.
    success=33
}

# virt with SMMUv3, started at EL2. One unit offers both stages; which one translates is up to the guest.
describe_virt() {
    machine=(
        -M 'virt,iommu=smmuv3,virtualization=on,gic-version=3' -cpu max -m 4G
        # As for q35.
        -accel tcg -icount 'shift=10,sleep=off'
        -serial stdio -serial "file:$out.jsonl"
        -semihosting-config 'enable=on,target=native'
        -trace 'smmuv3_*' -trace 'smmu_*'
    )
    add_functions
    # What the guest ends with by semihosting's SYS_EXIT; a panic ends with something else. QEMU itself ends with 0 when
    # it is asked to, and with 1 on errors.
    success=33
}

# ---- arguments -------------------------------------------------------------------------------------------------

refuse() { die "$* (try --help)"; }

arch=x86_64 elf='' wanted_qemu='' wanted_scenario=all action=run extra=()

# The architecture of an ELF file, by its e_machine field (two bytes at 18, little endian).
arch_of_elf() {
    [ "$(head -c 4 "$1" 2>/dev/null | od -An -tx1)" = ' 7f 45 4c 46' ] || refuse "$1: not an ELF file"
    case $(od -An -tx1 -j 18 -N 2 "$1") in
    ' 3e 00') arch=x86_64 ;;
    ' b7 00') arch=aarch64 ;;
    *) refuse "$1: an ELF file for neither x86_64 nor aarch64" ;;
    esac
}

first=yes
while [ $# -gt 0 ]; do
    case $1 in
    x86_64 | aarch64)
        [ -z "$elf" ] || refuse "$1: the ELF file names the architecture"
        arch=$1
        ;;
    --qemu | --scenario)
        [ $# -gt 1 ] || refuse "$1 needs a value"
        if [ "$1" = --qemu ]; then wanted_qemu=$2; else wanted_scenario=$2; fi
        shift
        ;;
    --list | --setup) action=${1#--} ;;
    --help | -h)
        printf '%s\n' "$usage"
        exit 0
        ;;
    --)
        shift
        extra=("$@")
        break
        ;;
    *)
        if [ -z "$first" ] || ! elf=$(cd "$called_from" && realpath -e -- "$1" 2>/dev/null); then
            refuse "unknown argument: $1"
        fi
        arch_of_elf "$elf"
        ;;
    esac
    first=''
    shift
done
# A relative path of --qemu starts from where the caller stands.
case $wanted_qemu in */*) wanted_qemu=$(cd "$called_from" && realpath -ms -- "$wanted_qemu") ;; esac

if [ "$action" = setup ]; then
    setup_all "$arch" "$wanted_qemu"
    say "ready: bare targets, QEMU $(qemu_version "$qemu") ($qemu)"
    exit 0
fi

mapfile -t scenarios < <(scenarios_of "$arch")
if [ "$action" = list ]; then
    printf '%s\n' "${scenarios[@]}"
    exit 0
fi
if [ "$wanted_scenario" != all ]; then
    [[ " ${scenarios[*]} " == *" $wanted_scenario "* ]] ||
        refuse "unknown scenario: $wanted_scenario ($arch has: ${scenarios[*]})"
    scenarios=("$wanted_scenario")
fi

# Options of the IOMMU among the extra arguments, for the guest to check that they took effect: QEMU ignores some
# silently. Both spellings that QEMU takes: DRIVER.KEY=VALUE and driver=DRIVER,property=KEY,value=VALUE.
options=()
iommu=$(iommu_of "$arch")
previous=''
for argument in ${extra[@]+"${extra[@]}"}; do
    case $previous in
    -global | --global)
        if [[ $argument =~ ^"$iommu"\.([^=]+)=(.*)$ ]] ||
            [[ $argument =~ ^driver="$iommu",property=([^,]+),value=(.*)$ ]]; then
            options+=("option=${BASH_REMATCH[1]}=${BASH_REMATCH[2]}")
        fi
        ;;
    esac
    previous=$argument
done

# ---- build -----------------------------------------------------------------------------------------------------

setup_all "$arch" "$wanted_qemu"

# One run at a time: the scenarios' files have fixed names, and two boots would share the cores that one needs for its
# time limit. The lock is on an open file that QEMU inherits, so that it outlasts a run that was killed half way.
mkdir -p target/demo
exec 9>target/demo/lock
flock --nonblock 9 || { say 'waiting for another run to end' && flock 9; }

build() { cargo build --target-dir target "$@" >&2 </dev/null; }

status=0
build -p iommu-witness || status=$?
if [ -z "$elf" ] && [ "$status" = 0 ]; then
    build -p hv-demo --target "$arch-unknown-none" || status=$?
    elf=target/$arch-unknown-none/debug/hv-demo
fi
if [ "$status" != 0 ]; then
    say 'the build failed'
    echo "0 passed, ${#scenarios[@]} failed"
    exit 1
fi

# ---- boot and check --------------------------------------------------------------------------------------------

# The arguments as one line for a shell, quoted only where it matters.
quoted() {
    local line='' argument
    for argument in "$@"; do
        if [[ ! $argument =~ ^[A-Za-z0-9_/.,:=+-]+$ ]]; then argument=${argument@Q}; fi
        line+=" $argument"
    done
    printf '%s' "${line# }"
}

# Boots scenario $1 and has it checked; adds to `passed` and `failed`, and clears `complete` if it did not run to its end.
run_scenario() {
    local scenario=$1 out=target/demo/$1 machine=() success guest=ok status=0 line command
    rm -f "$out.jsonl" "$out.trace" "$out.witness"
    describe_machine "$arch" "$scenario"
    command=(
        "$qemu" -nodefaults -no-user-config -display none -no-reboot "${machine[@]}" -D "$out.trace"
        -kernel "$elf" -append "scenario=$scenario${options[*]:+ ${options[*]}}" ${extra[@]+"${extra[@]}"}
    )
    say "== $scenario: QEMU $(qemu_version "$qemu")"
    say "$(quoted "${command[@]}")"
    # --foreground: stay in this process group, so that Ctrl-C reaches QEMU as well.
    timeout --foreground -k 5 "$BOOT_SECONDS" "${command[@]}" </dev/null || status=$?
    if [ "$status" != "$success" ]; then
        guest=failed
        case $status in
        124 | 137) say "$scenario: killed after $BOOT_SECONDS seconds" ;;
        *) say "$scenario: QEMU ended with status $status, not with the guest's success ($success)" ;;
        esac
    fi

    # The guest may have come to no line at all; the witness reports that from empty files.
    touch "$out.jsonl" "$out.trace"
    status=0
    target/debug/iommu-witness --scenario "$scenario" --iommu "$iommu" --jsonl "$out.jsonl" --trace "$out.trace" \
        --guest-status "$guest" ${options[@]+"${options[@]/#/--}"} </dev/null | tee "$out.witness" || status=$?
    line=$(tail -n 1 "$out.witness")
    if [[ $line =~ ^"$scenario: "([0-9]+)" passed, "([0-9]+)" failed"$ ]]; then
        passed=$((passed + BASH_REMATCH[1])) failed=$((failed + BASH_REMATCH[2]))
    else
        say "$scenario: the witness came to no result (status $status)"
        echo "$scenario: 0 passed, 1 failed"
        failed=$((failed + 1))
    fi
    if [ "$guest" != ok ] || [ "$status" != 0 ]; then complete=''; fi
}

passed=0 failed=0 complete=yes
for scenario in "${scenarios[@]}"; do run_scenario "$scenario"; done
# A scenario that stopped half way has failed, even if each check that it came to has passed.
if [ -z "$complete" ] && [ "$failed" = 0 ]; then failed=1; fi
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
