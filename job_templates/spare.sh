# A spare that has begun waits for nobody any more: once its head has served for a while the next one is submitted, where
# a node may. Where none may, `saga up --slurm` on the login node does it.
next_spare() {
    srun --overlap --nodes=1 --ntasks=1 --nodelist="${nodes[0]}" --mem=0 --cpus-per-task=1 --gres=none \
        --job-name=spare {{step_options}} "${command[@]}" -m saga_slurm.spare --cluster-dir "$folder" --tag "$tag" \
        --settled $((silent_s * 3)) < /dev/null
}
