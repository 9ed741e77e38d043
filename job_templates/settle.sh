# Slurm says no words to this script; it says some to itself (deputy.sh).
set -u
umask 077
readonly folder={{folder}} tag={{tag}} interface={{interface}}
readonly predecessor={{predecessor}} predecessor_job={{predecessor_job}} spare={{spare}}

say() { printf '%(%Y-%m-%dT%H:%M:%S)T saga: %s\n' -1 "$*"; }

# What modules and activation scripts do wrong is theirs: -u is for our lines only.
set +u
{{environment}}
set -u

unset XDG_RUNTIME_DIR    # of the login node
ulimit -n "$(ulimit -Hn)" 2>/dev/null
cd /

readonly command=({{command}})
readonly node_options=({{node_options}})
mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
ends_at=$(SLURM_TIME_FORMAT=%s squeue --noheader --jobs="$SLURM_JOB_ID" --format=%e 2>/dev/null)
case $ends_at in
    *[!0-9]* | '') ends_at= ;;
    *) export SLURM_JOB_END_TIME=$ends_at ;;    # 22.05 does not say it
esac

# Where others reach this node: by the interface that the site names, else as Slurm itself does.
address() {
    if [ -n "$interface" ]; then
        ip -4 -o addr show dev "$interface" | sed -n 's/.* inet \([0-9.]*\).*/\1/p' | head -n 1
    else
        scontrol show node --oneliner "${nodes[0]}" | sed -n 's/.* NodeAddr=\([^ ]*\) .*/\1/p'
    fi
}

began() {    # read by whoever follows the launch: which start of the job this is, and when it began
    local file=$folder/slurm/$tag.began
    printf '{"job": "%s", "restarts": %d, "at": %s}\n' \
        "$SLURM_JOB_ID" "${SLURM_RESTART_COUNT:-0}" "$(date +%s.%3N)" > "$file.new" && mv -f "$file.new" "$file"
}
[ $# -gt 0 ] || began || say "cannot write to $folder/slurm: is it on storage that the nodes share?"
[ $# -gt 0 ] || say "job $SLURM_JOB_ID, start ${SLURM_RESTART_COUNT:-0}, on ${nodes[*]}${ends_at:+, until $(date -d "@$ends_at" +%FT%T)}"
