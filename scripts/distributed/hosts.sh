#!/usr/bin/env bash
# Two machines in one: network namespaces with a cable between them, of a rate that is set, and a job across both.
#
#   scripts/distributed/hosts.sh RATE openmpi|mpich COMMAND...      such as: hosts.sh 1gbit openmpi node --import tsx …/all-reduce.ts 88
#
# Needs root on Linux with iproute2. One process on each side; messages take the cable, for shared memory is switched off.
set -euo pipefail
rate="$1" kind="$2"
shift 2
agent="$(mktemp)"
cleanup() {
  ip netns del repmlp1 2>/dev/null || true
  ip netns del repmlp2 2>/dev/null || true
  rm -f "$agent"
}
trap cleanup EXIT
cleanup
for i in 1 2; do ip netns add "repmlp$i"; done
ip link add cable1 netns repmlp1 type veth peer name cable2 netns repmlp2
for i in 1 2; do
  ip -n "repmlp$i" addr add "10.9.0.$i/24" dev "cable$i"
  ip -n "repmlp$i" link set "cable$i" up
  ip -n "repmlp$i" link set lo up
  [ "$rate" = full ] || tc -n "repmlp$i" qdisc add dev "cable$i" root tbf rate "$rate" burst 1mb latency 50ms
done
# In the place of ssh: HOST COMMAND…, in that machine's network and under its name.
cat > "$agent" <<'AGENT'
#!/usr/bin/env bash
while [ "${1#-}" != "$1" ]; do shift; done
host="$1"
shift
exec ip netns exec "repmlp${host##*.}" unshare --uts bash -c "hostname node${host##*.}; $*"
AGENT
chmod +x "$agent"
in_first() { ip netns exec repmlp1 unshare --uts bash -c 'hostname node1; exec "$@"' _ "$@"; }
if [ "$kind" = openmpi ]; then
  in_first mpirun.openmpi --allow-run-as-root --host 10.9.0.1,10.9.0.2 -n 2 --mca plm_rsh_agent "$agent" --bind-to none \
    --mca btl tcp,self --mca btl_tcp_if_include 10.9.0.0/24 --mca oob_tcp_if_include 10.9.0.0/24 "$@"
else
  in_first mpirun.mpich -hosts 10.9.0.1,10.9.0.2 -n 2 -genv MPIR_CVAR_NOLOCAL 1 -genv UCX_TLS tcp,self -ppn 1 -launcher rsh -launcher-exec "$agent" -iface cable1 "$@"
fi
