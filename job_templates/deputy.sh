# A machine that is gone with this script on it leaves a job that Slurm calls running for as long as it has others: it
# requeues nothing, and no spare begins. So some of the others look at the head as well. There runs this very script, in
# a step that needs neither the first one nor its srun; its words are the silence after which it acts, and its node.
readonly most_deputies={{deputies}}

supervise_deputies() {
    local rank
    for ((rank = 1; rank < ${#nodes[@]} && rank <= most_deputies; rank++)); do
        supervise_deputy "${nodes[rank]}" $((silent_s + silent_s * (rank - 1) / 2)) &
        deputies+=" $!"
    done
}

supervise_deputy() {
    rest $((silent_s / 2))    # a cluster that is being launched has better to do
    step deputy "$1" "$folder/log/standby-$SLURM_JOB_ID.log" --cpus-per-task="$(head_cpus)" {{step_options}} --gres=none -- \
        bash "$folder/slurm/$tag.sbatch" "$2" "$1"
}

deputize() {
    exec >> "$folder/log/slurm-$SLURM_JOB_ID.out" 2>&1
    nodes=("$2")
    # What begins here are children: a head must not need the leave of a Slurm that may not answer, or call it down.
    srun() { until [ "$1" = sh ]; do shift; done; exec "$@"; }
    at_term='winding=1'    # they hear it as well, and are outlived
    patience_s=$1
    supervise_standby --deputy
    [ $? = "$ended_here" ] && [ "$winding" = 0 ] || exit 0
    rest 2    # for the script, if it lives after all: it ends the job better
    say "the head is over, and nobody else would end the job"
    scancel "$SLURM_JOB_ID"
    exit 0
}
