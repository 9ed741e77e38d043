# Where the head is in another job: when it is lost with its machine, one begins here, until another job has it again.
supervise_standby() {
    trap - TERM
    trap 'winding=1' USR2
    while [ "$winding" = 0 ]; do
        step standby "${nodes[0]}" "$folder/log/standby-$SLURM_JOB_ID.log" --cpus-per-task=1 {{step_options}} --gres=none \
            "${command[@]}" -m saga_slurm.standby --cluster-dir "$folder" || return 0
        [ "$winding" = 0 ] || return 0
        say "the head is lost: one begins here"
        supervise_head
        [ $? = "$superseded" ] || return 0
        say "another job has the head again"
    done
}
