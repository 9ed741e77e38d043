# Each daemon is a step of its own, started again with growing pauses: one that dies takes nobody with it.
#   TERM to this script: the end is now.          USR1: the end is near (wall time, or preemption).
#   USR2: a successor is to have the head.
# A step is never ended by TERM to its srun, which would answer by killing its tasks: scancel --signal goes to the
# tasks, and srun hands USR1 on.
readonly most_failures=5 settled_s=60 superseded=3
winding=0 failed=0 head= successor= scaling= standby= deputies= insisting=
at_term=-    # what TERM does to the shells below this one: they end
node_pids=()

# step NAME NODE LOG OPTIONS... -- WORDS...: one daemon, until it ends well, fails too often, or everything winds down.
# It opens its log itself: what it says must neither be lost with this machine nor wait for it.
step() {
    local name=$1 node=$2 log=$3 options=() srun= code=0 failures=0 started; shift 3
    while [ "$1" != -- ]; do options+=("$1"); shift; done; shift
    trap 'winding=1' USR2
    trap '[ -z "$srun" ] || kill -USR1 "$srun" 2>/dev/null' USR1
    trap "$at_term" TERM
    while [ "$winding" = 0 ]; do
        started=$SECONDS
        srun --overlap --kill-on-bad-exit=0 --unbuffered --nodes=1 --ntasks=1 --nodelist="$node" --mem=0 \
            --job-name="$name" "${options[@]}" sh -c 'exec "$@" >> "$0" 2>&1' "$log" "$@" >> "$log" 2>&1 < /dev/null &
        srun=$!
        outlast "$srun"; code=$?; srun=
        case $code in 0 | "$superseded") return "$code" ;; esac
        [ "$winding" = 0 ] || return 0
        [ $((SECONDS - started)) -lt "$settled_s" ] || failures=0
        failures=$((failures + 1))
        say "$name on $node ended with code $code ($failures in a row); its log is $log"
        [ "$failures" -lt "$most_failures" ] || return "$code"
        rest "$failures"
    done
}

# A signal that interrupts bash's `wait` just when a child ends makes bash 5.2 forget that child and wait for ever.
# So nothing here waits for what still runs: it looks, and rests on a pipe that nobody writes to.
exec {pulse}<> <(:)
rest() { read -r -t "$1" -u "$pulse"; }

# outlast PID: its exit code, once it has ended.
outlast() {
    while kill -0 "$1" 2>/dev/null; do rest 0.3; done
    wait "$1"
}

supervise_head() {
    trap "$at_term" TERM
    [ -z "$predecessor_job" ] || await_predecessor
    rm -f "$folder/slurm/$tag.left"    # of an earlier head here
    local at; at=$(address)
    step head "${nodes[0]}" "$folder/log/head.log" --cpus-per-task="$(head_cpus)" {{step_options}} --gres=none -- \
        "${command[@]}" -m saga_head --cluster-dir "$folder" --take-over ${at:+--address "$at"}
    local code=$?
    [ "$code" != 0 ] || : > "$folder/slurm/$tag.left"    # in peace; one that is given up may do better elsewhere
    return "$code"
}

head_cpus() { echo $(( SLURM_CPUS_ON_NODE < 4 ? SLURM_CPUS_ON_NODE : 4 )); }

supervise_nodes() {
    local node
    for node in "${nodes[@]}"; do
        step "node-$node" "$node" "$folder/log/node-$SLURM_JOB_ID.$node.log" \
            --cpus-per-task="$SLURM_CPUS_ON_NODE" {{gpu_option}} {{step_options}} -- \
            "${command[@]}" -m saga_node --cluster-dir "$folder" --node "$SLURM_JOB_ID.$node" \
            "${node_options[@]}" &
        node_pids+=($!)
    done
}

# The one loop: until everything that was started here is over.
attend() {
    local pid left=("${node_pids[@]}") still bad=0
    while :; do
        heed
        still=()
        for pid in ${left[@]+"${left[@]}"}; do
            if kill -0 "$pid" 2>/dev/null; then still+=("$pid"); else wait "$pid" || bad=$((bad + 1)); fi
        done
        left=(${still[@]+"${still[@]}"})
        # A head whose nodes were removed one by one goes on; one whose nodes all failed does not.
        if [ "$bad" = "${#nodes[@]}" ] && [ "$winding" = 0 ]; then
            say "all node daemons were given up"
            failed=1
            end_steps
        fi
        [ -z "$head" ] || kill -0 "$head" 2>/dev/null || head_over
        [ -n "$head" ] || [ "${#left[@]}" -gt 0 ] || break
        rest 0.3
    done
}

head_over() {
    local code
    wait "$head"; code=$?
    head=
    case $code in
        0) ;;
        "$superseded") say "another has the head: the nodes here serve on"; supervise_standby & standby=$!; return ;;
        *) say "the head was given up"; failed=1 ;;
    esac
    [ "$winding" = 1 ] || { say "the head is over"; end_steps; }
}

heed() {
    local words=$asked word
    asked=
    for word in $words; do
        case $word in
            stop) say "told to end"; end_steps ;;
            # The head drains nodes that say they end soon. They stay until the end: a job that ends by itself is
            # not requeued.
            notice) say "the end is near: the nodes are told"; kill -USR1 "${node_pids[@]}" 2>/dev/null ;;
            # By now the successor has had our nodes drained and removed; what is left is the head.
            hand-over) say "a successor takes over"; end_steps ;;
        esac
    done
}

end_steps() {
    winding=1
    kill -USR2 "${node_pids[@]}" $head $scaling $standby $deputies 2>/dev/null
    kill $successor 2>/dev/null
    [ -z "$insisting" ] || return
    # Again and again: a step that is just being launched hears nothing the first time.
    while :; do scancel --signal=TERM "$SLURM_JOB_ID"; sleep 5; done 2>/dev/null & insisting=$!
}

finish() {
    kill $successor $insisting 2>/dev/null
    kill -USR2 $scaling $standby $deputies 2>/dev/null    # Slurm ends their steps with the script
    say "over"
    exit "$failed"
}

asked=
trap 'asked+=" stop"' TERM
trap 'asked+=" notice"' USR1
trap 'asked+=" hand-over"' USR2
