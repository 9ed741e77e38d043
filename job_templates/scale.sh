# What grows and shrinks the cluster, where that was asked for: beside the head, so after a predecessor's.
readonly elastic={{elastic}}
supervise_scaling() {
    trap - TERM
    [ -z "$predecessor_job" ] || await_predecessor
    step scaling "${nodes[0]}" "$folder/log/scaling.log" --cpus-per-task=1 {{step_options}} --gres=none -- \
        "${command[@]}" -m saga_slurm.scaling --cluster-dir "$folder"
}
