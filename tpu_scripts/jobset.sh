#!/usr/bin/env bash
# Starts a config on TPU slices of a GKE cluster, as a JobSet (https://jobset.sigs.k8s.io), which restarts it when a pod
# fails or a node is taken back.
#
#   tpu_scripts/jobset.sh --project=P --zone=Z --cluster=C --name=N --image=IMAGE --accelerator=tpu-v5p-slice \
#     --topology=8x8x16 --bucket=B --service-account=S --config=configs/NAME.py --workdir=bucket/runs/NAME [-- FLAGS]
#
#   --project, --zone, --name  or R1JAX_PROJECT, R1JAX_ZONE, R1JAX_NAME; zone or region of the cluster
#   --cluster=NAME           with JobSet installed and a node pool of this accelerator and topology for each slice
#   --image=IMAGE            built from tpu_scripts/Dockerfile and pushed to a registry that the cluster reads
#   --accelerator=LABEL      tpu-v5p-slice, tpu-v6e-slice or tpu-v5-lite-podslice
#   --topology=XxY[xZ]       of one slice
#   --chips=N                chips of one VM; 4
#   --slices=N               slices joined by the data centre's network; 1
#   --bucket=BUCKET          Cloud Storage bucket, mounted at bucket/ of the working folder
#   --service-account=NAME   Kubernetes service account that may read and write the bucket
#   --namespace=NAME         default
#   --restarts=N             of all pods together, before the JobSet fails; 10
#   --spot                   on spot nodes
#   -- FLAGS                 further flags of python -m r1jax.main, such as --config.seed=1
#   --dry-run                prints the commands, manifest included
#
#   logs:    kubectl logs --follow --selector=jobset.sigs.k8s.io/jobset-name=N,batch.kubernetes.io/job-completion-index=0
#   stop:    kubectl delete jobset N    (each pod has 10 minutes to save; the same command starts it again)
set -euo pipefail
source "$(dirname "$0")/command.sh"

project=${R1JAX_PROJECT:-} zone=${R1JAX_ZONE:-} name=${R1JAX_NAME:-}
cluster="" image="" accelerator="" topology="" chips=4 slices=1 bucket="" service_account="" namespace=default
restarts=10 config="" workdir="" spot=""
OPTIONS="project zone name cluster image accelerator topology chips slices bucket service-account namespace restarts config workdir"
SWITCHES="spot"
read_options "$@"
need_project
need_names zone name cluster accelerator service-account namespace
need_counts chips slices restarts
need image topology bucket config workdir
[[ $topology =~ ^[1-9][0-9]*(x[1-9][0-9]*){1,2}$ ]] || refuse "--topology is ${topology@Q}; expected such as 4x4 or 8x8x16"
[[ $bucket =~ ^[a-z0-9][-_.a-z0-9]{1,221}$ ]] || refuse "--bucket is ${bucket@Q}; expected a bucket's name, without gs://"
total=$((${topology//x/*}))
((total % chips == 0)) || refuse "--topology $topology has $total chips, which VMs of --chips=$chips do not make up"
hosts=$((total / chips))
need_program gcloud "$GCLOUD_FROM"
need_program kubectl "install it with: gcloud components install kubectl gke-gcloud-auth-plugin"

for word in "$image" "$config" "$workdir" "${REST[@]}"; do
  [[ $word != *[[:cntrl:]]* ]] || refuse "${word@Q} holds a control character, which a manifest cannot"
done

# json WORD: as a YAML scalar. Kubernetes would replace $(VARIABLE) in a container's words; $$( is a plain $(.
json() {
  local text=${1//\\/\\\\}
  text=${text//\"/\\\"}
  echo "\"${text//\$(/\$\$(}\""
}

arguments() {
  local word
  for word in --config="$config" --workdir="$workdir" "${REST[@]}"; do echo "                    - $(json "$word")"; done
}

manifest() {
  cat <<YAML
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: $name
  namespace: $namespace
  annotations:
    alpha.jobset.sigs.k8s.io/exclusive-topology: cloud.google.com/gke-nodepool  # a slice to a node pool
spec:
  failurePolicy:
    maxRestarts: $restarts
  replicatedJobs:
    - name: slice
      replicas: $slices
      template:
        spec:
          parallelism: $hosts
          completions: $hosts
          backoffLimit: 0
          template:
            metadata:
              annotations:
                gke-gcsfuse/volumes: "true"
            spec:
              restartPolicy: Never
              serviceAccountName: $service_account
              hostNetwork: true
              dnsPolicy: ClusterFirstWithHostNet
              terminationGracePeriodSeconds: 600
              nodeSelector:
                cloud.google.com/gke-tpu-accelerator: $accelerator
                cloud.google.com/gke-tpu-topology: $topology
${spot:+                cloud.google.com/gke-spot: \"true\"
}              containers:
                - name: r1jax
                  image: $(json "$image")
                  command: ["python", "-m", "r1jax.main"]
                  args:
$(arguments)
                  resources:
                    requests: {google.com/tpu: $chips}
                    limits: {google.com/tpu: $chips}
                  volumeMounts:
                    - {name: bucket, mountPath: /r1jax/bucket}
              volumes:
                - name: bucket
                  csi:
                    driver: gcsfuse.csi.storage.gke.io
                    volumeAttributes: {bucketName: $bucket, mountOptions: implicit-dirs, hostNetworkPodKSA: "true"}
YAML
}

text=$(manifest)
run gcloud container clusters get-credentials "$cluster" --project="$project" --location="$zone"
if [[ -n $dry_run ]]; then
  printf "kubectl apply --filename=- <<'MANIFEST'\n%s\nMANIFEST\n" "$text"
else
  kubectl apply --filename=- <<<"$text"
fi
