# A successor's nodes join the running cluster at once. When they serve, those of the predecessor are drained and
# removed; then the predecessor's head is told to hand over, and when it has left the folder, ours begins. The
# predecessor's job ends with its head, once that has finished what it began.
succeed() {
    trap - TERM
    srun --overlap --nodes=1 --ntasks=1 --nodelist="${nodes[0]}" --mem=0 --cpus-per-task=1 --gres=none \
        --job-name=succession {{step_options}} "${command[@]}" -m saga_slurm.succession \
        --cluster-dir "$folder" --job "$SLURM_JOB_ID" --nodes "${#nodes[@]}" --predecessor "$predecessor_job" \
        < /dev/null
    case $? in
        0) say "job $predecessor_job leaves" ;;
        4)  say "the head of job $predecessor_job does not answer: it is ended"
            scancel --batch --signal=USR2 "$predecessor_job" ;;
    esac
}

handed_over() {
    [ -e "$folder/slurm/$predecessor.left" ] || grep -qs "\"job\":\"$predecessor_job\".*\"released\":true" "$folder/head.json"
}

await_predecessor() {
    [ -z "$spare" ] || return 0    # it begins because its predecessor has failed
    local look=0
    until handed_over; do
        # A predecessor that is gone without a word leaves no file.
        look=$((look + 1))
        if [ $((look % 25)) = 0 ] && ! squeue --noheader --jobs="$predecessor_job" --states=RUNNING,COMPLETING,SUSPENDED \
            --format=%i 2>/dev/null | grep -q .; then return; fi
        ls "$folder/slurm" > /dev/null    # drops what NFS remembers of names that were not there
        rest 0.2
    done
}
