# shellcheck shell=bash
# A gate on this very host that cannot outlive the script that sources this file (bash).
#
# A watchdog that is started before the gate, and that opens no file any more, kills supervisor and worker when the
# limit is over or when the script dies. The kernel then lets everything pass.

gate='' watchdog=''

# claim_host: one gate of this kind at a time. They would refuse each other's work.
claim_host() {
    exec 7>/run/lock/writegate-prove-default-set || return 1
    if ! flock -w 600 7; then
        echo "error: another script gates this host" >&2
        return 1
    fi
}

# start_gate SCRATCH LIMIT BINARY: the built-in set, unless this host has policies of its own. Sets $gate; state,
# control.sock, audit.jsonl and messages are in SCRATCH.
start_gate() {
    local scratch=$1 limit=$2 binary=$3
    rm -f "$scratch/watchdog"
    mkfifo "$scratch/watchdog" || return 1
    # Builtins only, once it has started: a gate that hangs must not be able to hang it.
    bash -c '
        exec 9<"$1"
        read -r -u 9 group || exit 0
        case $group in "" | *[!0-9]*) exit 0 ;; esac
        if read -r -t "$2" -u 9 _; then exit 0; fi
        kill -KILL -- "-$group" 2>/dev/null
        echo "TIME LIMIT: the gate was killed"
    ' watchdog "$scratch/watchdog" "$limit" 7>&- &
    watchdog=$!
    exec 8>"$scratch/watchdog"
    # timeout(1) puts itself and the gate into a process group of their own.
    timeout -s KILL "$((limit + 10))" "$binary" run --mode enforce --state-dir "$scratch/state" \
        --control "$scratch/control.sock" --audit-log "$scratch/audit.jsonl" 2>"$scratch/messages" 7>&- 8>&- &
    gate=$!
    echo "$gate" >&8
}

# stop_gate PID: asks the supervisor to end and waits; the gate's exit code.
stop_gate() {
    local code
    case $1 in
        '' | *[!0-9]* | 0 | 1) echo "error: the status does not name the supervisor" >&2 ;;
        *) kill -TERM "$1" ;;
    esac
    wait "$gate"
    code=$?
    gate=''
    dismiss_watchdog
    return "$code"
}

# kill_gate: at once, whatever it does. What follows works.
kill_gate() {
    if [ -n "$gate" ]; then
        kill -KILL -- "-$gate" 2>/dev/null
        wait "$gate" 2>/dev/null
        gate=''
    fi
    dismiss_watchdog
}

dismiss_watchdog() {
    [ -n "$watchdog" ] || return 0
    # One that has ended reads no more.
    trap '' PIPE
    { echo "" >&8; } 2>/dev/null
    exec 8>&-
    wait "$watchdog" 2>/dev/null
    watchdog=''
}
