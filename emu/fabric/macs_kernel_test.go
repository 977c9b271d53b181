package fabric_test

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vpclab/vpclab/emu/fabric"
	"github.com/vpclab/vpclab/emu/kernel/kerneltest"
	"github.com/vpclab/vpclab/topo"
)

// switched is machines m1, m2 … on the bridge lan of the node sw.
func switched(machines int, ageing time.Duration) fabric.State {
	s := fabric.State{
		Nodes: map[string]fabric.Node{"sw": {Name: "sw", Bridges: []fabric.Bridge{{Name: "lan", MAC: topo.MAC{2, 0, 0, 0, 0, 0x99}, Ageing: ageing}}}},
		Links: map[string]fabric.Link{},
	}
	for i := 1; i <= machines; i++ {
		m, port := "m"+string(rune('0'+i)), "p"+string(rune('0'+i))
		s.Nodes[m] = fabric.Node{Name: m}
		s.Links[m+":eth0--sw:"+port] = fabric.Link{MTU: 1500,
			A: fabric.End{Node: m, Ifname: "eth0", MAC: topo.MAC{2, 0, 0, 0, 0, byte(i)}, Addr: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 9, 0, byte(i)}), 24)},
			B: fabric.End{Node: "sw", Ifname: port, MAC: topo.MAC{2, 0, 0, 0, 0x80, byte(i)}, Master: "lan"},
		}
	}
	return s
}

func TestMACsAreFollowedUntilTheyAreForgotten(t *testing.T) {
	kerneltest.Need(t)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	f := start(t, "macs")
	_, err := f.Apply(ctx, switched(2, time.Second))
	require.NoError(t, err)
	sw, m1 := []fabric.BridgeAt{{Node: "sw", Bridge: "lan"}}, topo.MAC{2, 0, 0, 0, 0, 1}
	port := netlinkIn(t, f, "sw", "p1").Attrs().Index
	w, err := f.WatchMACs(sw)
	require.NoError(t, err)
	defer w.Close()
	require.NotEqual(t, port, netlinkIn(t, f, "sw", "p2").Attrs().Index)

	_, err = ping(t, f, "m1", "10.9.0.2", 1)
	require.NoError(t, err)
	learned, err := w.Wait(ctx, m1, sw, func(_ fabric.BridgeAt, p fabric.MACPlace) bool { return p.Port == port })
	require.NoError(t, err)
	gone, err := w.Wait(ctx, m1, sw, func(_ fabric.BridgeAt, p fabric.MACPlace) bool { return p.Port == 0 })
	require.NoError(t, err)
	age := gone.Sub(learned)
	require.Greater(t, age, 900*time.Millisecond)
	t.Logf("a MAC was forgotten %v after it was learned; asked for 1s", age)

	_, err = ping(t, f, "m1", "10.9.0.2", 1)
	require.NoError(t, err)
	_, err = w.Wait(ctx, m1, sw, func(_ fabric.BridgeAt, p fabric.MACPlace) bool { return p.Port == port })
	require.NoError(t, err)
	require.NoError(t, f.FlushMACs(sw...))
	_, err = w.Wait(ctx, m1, sw, func(_ fabric.BridgeAt, p fabric.MACPlace) bool { return p.Port == 0 })
	require.NoError(t, err)

	soon, stop := context.WithTimeout(ctx, 50*time.Millisecond)
	defer stop()
	_, err = w.Wait(soon, m1, sw, func(_ fabric.BridgeAt, p fabric.MACPlace) bool { return p.Port == port })
	require.ErrorContains(t, err, "MAC 02:00:00:00:00:01: not as awaited at sw lan")
}
