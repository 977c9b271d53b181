package fabric_test

import (
	"context"
	"fmt"
	"net"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vpclab/vpclab/emu/fabric"
	"github.com/vpclab/vpclab/emu/kernel/kerneltest"
	"github.com/vpclab/vpclab/topo"
)

// TestReplug: a machine comes, moves to another host and goes, again and
// again, by an Apply that trusts its record. Somebody has a socket in it each
// time, which keeps its namespace alive: so what goes from a host goes by the
// Apply, and not when the kernel gets round to ending the namespace.
func TestReplug(t *testing.T) {
	kerneltest.Need(t)
	sc, err := topo.Parse("replug.vpclab.yml", []byte(`name: replug
topology:
  backbone: {pe: [pe1, pe2], links: [{between: [pe1, pe2]}]}
  sites:
    a: {kind: cloud, pe: pe1, machines: 1}
    b: {kind: cloud, pe: pe2, machines: 1}
vpcs: {x: {service: vpls, sites: [a, b], ipv6: true}}
`))
	require.NoError(t, err)
	base, err := topo.Expand(sc)
	require.NoError(t, err)
	f, err := fabric.New("replug", nil)
	require.NoError(t, err)
	var sockets []net.PacketConn
	t.Cleanup(func() {
		for _, c := range sockets {
			require.NoError(t, c.Close())
		}
		require.NoError(t, f.Destroy(context.Background()))
	})
	_, err = f.Apply(t.Context(), fabric.Compile(base))
	require.NoError(t, err)
	for i := range 3 {
		plan := base
		for _, op := range []topo.Operation{
			{Do: "add", VPC: "x", VM: "more", Host: "a/1"},
			{Do: "move", VM: "more", Host: "b/1"},
		} {
			plan, err = plan.Do(op)
			require.NoError(t, err)
			_, err = f.Apply(t.Context(), fabric.Compile(plan), fabric.Trust)
			require.NoError(t, err, fmt.Sprintf("round %d: %s", i, op))
		}
		require.NoError(t, f.Do("more", func() error {
			c, err := net.ListenPacket("udp4", ":7077")
			sockets = append(sockets, c)
			return err
		}))
		_, err = f.Apply(t.Context(), fabric.Compile(base), fabric.Trust)
		require.NoError(t, err, fmt.Sprintf("round %d: back", i))
	}
}
