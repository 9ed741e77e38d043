# Where the head is elsewhere: when it is lost with its machine, one begins here, until another has it again.
readonly silent_s={{silent_s}} ended_here=4
patience_s=$silent_s
supervise_standby() {    # further words for the standby
    trap "$at_term" TERM
    trap 'winding=1' USR2
    while [ "$winding" = 0 ]; do
        step standby "${nodes[0]}" "$folder/log/standby-$SLURM_JOB_ID.log" --cpus-per-task=1 {{step_options}} --gres=none -- \
            "${command[@]}" -m saga_slurm.standby --cluster-dir "$folder" --silent "$patience_s" "$@" \
            || return 0
        [ "$winding" = 0 ] || return 0
        say "the head is lost: one begins here"
        supervise_head
        [ $? = "$superseded" ] || return "$ended_here"
        say "another has the head again"
    done
}
