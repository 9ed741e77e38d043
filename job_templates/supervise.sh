# Each daemon is a step of its own, started again with growing pauses: one that dies takes nobody with it.
#   TERM to this script: the end is now.          USR1: the end is near (wall time, or preemption).
#   USR2: a successor has taken over.             RTMIN: the head's supervision is over.
# A step is never ended by TERM to its srun, which would answer by killing its tasks: scancel --signal goes to the
# tasks, and srun hands USR1 on.
readonly most_failures=5 settled_s=60
winding=0 failed=0 preempted=0 head= successor= insisting=
node_pids=()

# step NAME NODE LOG WORDS...: one daemon, until it ends well, fails too often, or everything winds down.
step() {
    local name=$1 node=$2 log=$3 srun= code=0 failures=0 started; shift 3
    trap 'winding=1' USR2
    trap 'winding=1; [ -z "$srun" ] || kill -USR1 "$srun" 2>/dev/null' USR1
    trap - TERM
    while [ "$winding" = 0 ]; do
        started=$SECONDS
        srun --overlap --kill-on-bad-exit=0 --unbuffered --nodes=1 --ntasks=1 --nodelist="$node" --mem=0 \
            --job-name="$name" "$@" >> "$log" 2>&1 < /dev/null &
        srun=$!
        outlast "$srun"; code=$?; srun=
        [ "$code" != 0 ] || return 0
        [ "$winding" = 0 ] || return 0
        [ $((SECONDS - started)) -lt "$settled_s" ] || failures=0
        failures=$((failures + 1))
        say "$name on $node ended with code $code ($failures in a row); its log is $log"
        [ "$failures" -lt "$most_failures" ] || return "$code"
        sleep "$failures" & wait $!
    done
}

# outlast PID: its exit code, however often a signal interrupts the waiting.
outlast() {
    local code
    while wait "$1"; code=$?; [ "$code" -gt 128 ] && kill -0 "$1" 2>/dev/null; do :; done
    return "$code"
}

supervise_head() {
    trap - TERM
    [ -z "$predecessor_job" ] || await_predecessor
    local at; at=$(address)
    step head "${nodes[0]}" "$folder/log/head.log" --cpus-per-task="$(head_cpus)" {{step_options}} --gres=none \
        "${command[@]}" -m saga_head --cluster-dir "$folder" ${at:+--address "$at"}
    local code=$?
    : > "$folder/slurm/$tag.left"
    kill -s RTMIN $$
    return "$code"
}

head_cpus() { echo $(( SLURM_CPUS_ON_NODE < 4 ? SLURM_CPUS_ON_NODE : 4 )); }

supervise_nodes() {
    local node
    for node in "${nodes[@]}"; do
        step "node-$node" "$node" "$folder/log/node-$SLURM_JOB_ID.$node.log" \
            --cpus-per-task="$SLURM_CPUS_ON_NODE" {{gpu_option}} {{step_options}} \
            "${command[@]}" -m saga_node --cluster-dir "$folder" --node "$SLURM_JOB_ID.$node" \
            "${node_options[@]}" &
        node_pids+=($!)
    done
}

outlast_nodes() {
    local pid bad=0
    for pid in "${node_pids[@]}"; do outlast "$pid" || bad=$((bad + 1)); done
    [ "$bad" = 0 ] || [ "$winding" = 1 ] || say "$bad of ${#nodes[@]} node daemons were given up"
    [ "$bad" -lt "${#nodes[@]}" ] || [ "$winding" = 1 ] || failed=1
    # A head whose nodes were removed one by one goes on; one whose nodes all failed, or whose end is near, does not.
    if [ "$failed" = 1 ] || [ "$winding" = 1 ]; then end_steps; fi
}

end_steps() {
    winding=1
    kill -USR2 "${node_pids[@]}" $head $successor 2>/dev/null
    [ -z "$insisting" ] || return
    # Again and again: a step that is just being launched hears nothing the first time.
    while :; do scancel --signal=TERM "$SLURM_JOB_ID"; sleep 5; done & insisting=$!
}

stop() { say "told to end"; end_steps; }

# Wall time nearly over, or preemption: the node daemons hand their sessions on and end; then the head.
notice() {
    winding=1
    if [ -z "$ends_at" ] || [ $((ends_at - $(date +%s))) -gt 600 ]; then preempted=1; fi
    say "the end is near$([ "$preempted" = 0 ] || echo ' (preemption)'): draining"
    kill -USR1 "${node_pids[@]}" 2>/dev/null
}

hand_over() {
    say "a successor has taken over: draining"
    winding=1
    kill -USR1 "${node_pids[@]}" 2>/dev/null
}

finish() {
    kill $successor $insisting 2>/dev/null
    if [ "$preempted" = 1 ]; then
        say "drained; waiting to be requeued"    # a job that ends by itself is not started again
        sleep 3600 & wait $!
    fi
    say "over"
    exit "$failed"
}

trap stop TERM
trap notice USR1
trap hand_over USR2
trap 'if [ "$winding" = 0 ]; then say "the head is over"; end_steps; fi' RTMIN
