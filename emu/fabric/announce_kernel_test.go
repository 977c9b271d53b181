package fabric_test

import (
	"context"
	"net/netip"
	"os/exec"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/fabric"
	"github.com/vpclab/vpclab/emu/kernel/kerneltest"
	"github.com/vpclab/vpclab/topo"
)

var vmMAC, vmAddr = topo.MAC{2, 0, 0, 0, 5, 1}, netip.MustParseAddr("10.6.0.10")

// hosts is a client and two hosts on one switch; the VM is on one of the
// hosts, or on none.
func hosts(on string) fabric.State {
	mac := func(n byte) topo.MAC { return topo.MAC{2, 0, 0, 0, 6, n} }
	bridge := func(n byte) []fabric.Bridge { return []fabric.Bridge{{Name: "lan", MAC: mac(n)}} }
	s := fabric.State{
		Nodes: map[string]fabric.Node{
			"c": {Name: "c"}, "sw": {Name: "sw", Bridges: bridge(1)}, "vm": {Name: "vm"},
			"h1": {Name: "h1", Bridges: bridge(2)}, "h2": {Name: "h2", Bridges: bridge(3)},
		},
		Links: map[string]fabric.Link{
			"c": {MTU: 1500, A: fabric.End{Node: "c", Ifname: "eth0", MAC: mac(4), Addr: netip.MustParsePrefix("10.6.0.1/24")},
				B: fabric.End{Node: "sw", Ifname: "p0", MAC: mac(5), Master: "lan"}},
			"h1": {MTU: 1500, A: fabric.End{Node: "h1", Ifname: "up", MAC: mac(6), Master: "lan"}, B: fabric.End{Node: "sw", Ifname: "p1", MAC: mac(7), Master: "lan"}},
			"h2": {MTU: 1500, A: fabric.End{Node: "h2", Ifname: "up", MAC: mac(8), Master: "lan"}, B: fabric.End{Node: "sw", Ifname: "p2", MAC: mac(9), Master: "lan"}},
		},
	}
	if on != "" {
		s.Links["vm"] = fabric.Link{MTU: 1500, A: fabric.End{Node: "vm", Ifname: "eth0", MAC: vmMAC, Addr: netip.PrefixFrom(vmAddr, 24)},
			B: fabric.End{Node: on, Ifname: "vnic", MAC: mac(10), Master: "lan"}}
	}
	return s
}

func behind(t testing.TB, f *fabric.Fabric, node string, mac topo.MAC) string {
	t.Helper()
	macs, err := f.FDB(fabric.BridgeAt{Node: node, Bridge: "lan"})
	require.NoError(t, err)
	port := ""
	for _, m := range macs {
		if m.MAC == mac {
			require.Empty(t, port, "one entry a MAC")
			port = m.Port
		}
	}
	return port
}

// TestAnnouncedMachineIsFound moves a silent VM from host to host: without its
// new host's word nothing finds it, with it everything does.
func TestAnnouncedMachineIsFound(t *testing.T) {
	kerneltest.Need(t)
	var sent []event.Event
	f, err := fabric.New("moved", func(e event.Event) {
		if e.Kind == "mac.announced" {
			sent = append(sent, e)
		}
	})
	require.NoError(t, err)
	defer func() { require.NoError(t, f.Destroy(context.Background())) }()
	apply(t, f, hosts("h1"))
	out, err := ping(t, f, "vm", "10.6.0.1", 1) // its ARP request is for all
	require.NoError(t, err, out)
	require.Equal(t, [3]string{"vnic", "up", "p1"}, [3]string{behind(t, f, "h1", vmMAC), behind(t, f, "h2", vmMAC), behind(t, f, "sw", vmMAC)})

	from, to := "h1", "h2"
	for range 4 {
		apply(t, f, hosts(to))
		if from == "h1" && len(sent) == 0 { // the VM has not said a word
			out, err = ping(t, f, "c", vmAddr.String(), 1)
			require.Error(t, err, "a silent move was noticed: %s", out)
		}
		begin := time.Now()
		sent = nil
		require.NoError(t, f.Announce(t.Context(), to, "vnic", vmMAC, vmAddr))
		require.GreaterOrEqual(t, time.Since(begin), 170*time.Millisecond)
		require.Len(t, sent, 4)
		require.Equal(t, map[string]string{"port": "vnic", "mac": vmMAC.String(), "address": "10.6.0.10", "n": "1"}, sent[0].Attr)
		require.Equal(t, "vnic", behind(t, f, to, vmMAC))
		require.Equal(t, "up", behind(t, f, from, vmMAC))
		require.Equal(t, map[string]string{"h1": "p1", "h2": "p2"}[to], behind(t, f, "sw", vmMAC))
		out, err = ping(t, f, "c", vmAddr.String(), 2)
		require.NoError(t, err, out)
		from, to = to, from
	}
}

// TestAnnounceWaitsForThePort announces before the machine's end is up, and a
// machine whose end never comes up.
func TestAnnounceWaitsForThePort(t *testing.T) {
	kerneltest.Need(t)
	f := start(t, "early")
	s := hosts("h1")
	l := s.Links["vm"]
	l.Down = true
	s.Links["vm"] = l
	apply(t, f, s)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	require.ErrorContains(t, f.Announce(ctx, "h1", "vnic", vmMAC, vmAddr),
		"announce 02:00:00:00:05:01 at h1:vnic: wait until the port, which is disabled, forwards: context deadline exceeded")
	done := make(chan error, 1)
	go func() { done <- f.Announce(t.Context(), "h1", "vnic", vmMAC, vmAddr) }()
	apply(t, f, hosts("h1"))
	require.NoError(t, <-done)
	require.Equal(t, "p1", behind(t, f, "sw", vmMAC))

	for port, text := range map[string]string{"nosuch": "no interface nosuch", "lan": "lan is not a port of a bridge"} {
		require.ErrorContains(t, f.Announce(t.Context(), "h1", port, vmMAC, vmAddr), text)
	}
	require.ErrorIs(t, f.Announce(t.Context(), "h9", "vnic", vmMAC, vmAddr), fabric.ErrNoNode)
	require.ErrorContains(t, f.Announce(t.Context(), "h1", "vnic", vmMAC, netip.MustParseAddr("fe80::1")), "want an IPv4 address")
	_, err := f.FDB(fabric.BridgeAt{Node: "h1", Bridge: "vnic"})
	require.EqualError(t, err, "read bridge h1 vnic: there is no such bridge")
	shown, err := exec.Command("bridge", "-n", "vpclab-early-h1", "fdb", "show", "br", "lan").CombinedOutput()
	require.NoError(t, err)
	require.NotContains(t, string(shown), "vlan", "an entry of VLAN 1 beside each")
}
