# shellcheck shell=bash
# Whether the vault of the gate in $scratch holds what is there, and nothing else (bash). For scripts with ok and fail.

# stores: the vault's directories, one for each filesystem.
stores() {
    local mount
    echo "$scratch/state/vault"
    findmnt -rno TARGET | while read -r mount; do echo "${mount%/}/.writegate-vault-$(cat "$scratch/state/instance")"; done
}

# store_of PATH: the one on its filesystem.
store_of() {
    local mount
    mount=$(stat -c %m "$(dirname "$1")")
    if [ "$mount" = "$(stat -c %m "$scratch/state")" ]; then stores | head -n 1; else stores | grep -x "${mount%/}/[^/]*"; fi
}

# held PATH: how the vault holds this very inode: by a link, and for content by a copy too, where there was room for one.
held() {
    local store number
    store=$(store_of "$1")
    number=$(printf %x "$(stat -c %i "$1")")
    if [ "$(stat -c '%d %i' "$1")" != "$(stat -c '%d %i' "$store/l-$number")" ]; then
        echo "no link"
    elif [ -L "$1" ] || [ ! -s "$1" ] || [ ! -e "$store/c-$number" ]; then
        # The old copy of a file that is empty now is good for nothing, and harmless.
        echo link
    elif cmp -s "$1" "$store/c-$number"; then
        echo copy
    else
        echo "a copy of other content"
    fi
} 2>/dev/null

# matches WHAT PATH...: soon the vault holds each as it is now. It learns behind the change.
matches() {
    local what=$1 name how look copies missing
    shift
    for ((look = 0; look < 25; look++)); do
        copies=0 missing=()
        for name; do
            how=$(held "$name")
            case $how in
                link) ;;
                copy) copies=$((copies + 1)) ;;
                *) missing+=("$name: $how") ;;
            esac
        done
        ((${#missing[@]})) || break
        sleep 0.2
    done
    if (($# && !${#missing[@]})); then
        ok "the vault matches $what: $# names, $copies of them with a copy of their content"
    else
        fail "the vault matches $what"
        printf '%s\n' ${missing[@]+"${missing[@]}"}
    fi
}

# lets_go: soon the vault holds nothing that has no other name: what was replaced or deleted is gone.
lets_go() {
    local look alone
    for ((look = 0; look < 25; look++)); do
        alone=$(stores | while read -r store; do [ ! -d "$store" ] || find "$store" -name 'l-*' -links 1; done)
        [ -n "$alone" ] || return 0
        sleep 0.2
    done
    echo "$alone"
    return 1
}
