package fabric_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/fabric"
	"github.com/vpclab/vpclab/emu/kernel/kerneltest"
	"github.com/vpclab/vpclab/topo"
)

// seats is a machine that is there twice, with the same address and MAC, at two
// hosts.
func seats() fabric.State {
	s := hosts("h1")
	first := s.Links["vm"]
	first.Seat = topo.SeatUp
	second := first
	second.Seat = topo.SeatDark
	second.A.Node, second.B = "vm2", fabric.End{Node: "h2", Ifname: "vnic", MAC: topo.MAC{2, 0, 0, 0, 6, 11}, Master: "lan"}
	s.Nodes["vm2"] = fabric.Node{Name: "vm2", Kind: topo.KindStandby}
	s.Links["vm"], s.Links["vm2"] = first, second
	return s
}

// TestSeatsTakeTurns has two seats of a machine of which one is heard, and then
// the other; nothing that the fabric does meanwhile changes who.
func TestSeatsTakeTurns(t *testing.T) {
	kerneltest.Need(t)
	f := start(t, "seats")
	apply(t, f, seats())
	open := func(host string) (p *fabric.Port) {
		require.NoError(t, f.Do(host, func() (err error) { p, err = fabric.OpenPort("vnic"); return err }))
		t.Cleanup(p.Close)
		return p
	}
	first, second := open("h1"), open("h2")
	up := func() (ups [2]bool) {
		for i, p := range []*fabric.Port{first, second} {
			var err error
			ups[i], err = p.IsUp()
			require.NoError(t, err)
		}
		return ups
	}
	require.Equal(t, [2]bool{true, false}, up())
	out, err := ping(t, f, "c", vmAddr.String(), 2)
	require.NoError(t, err, out)
	require.Equal(t, "p1", behind(t, f, "sw", vmMAC))

	for turn := range 4 {
		from, to, host, port := first, second, "h2", "p2"
		if turn%2 == 1 {
			from, to, host, port = second, first, "h1", "p1"
		}
		require.NoError(t, from.Down())
		require.NoError(t, to.Up())
		begun := 0
		require.NoError(t, f.Do(host, func() error {
			return to.Announce(t.Context(), host, vmMAC, vmAddr, func(event.Event) {}, func() { begun++ })
		}))
		require.Equal(t, 1, begun)
		require.Equal(t, port, behind(t, f, "sw", vmMAC))
		out, err := ping(t, f, "c", vmAddr.String(), 2)
		require.NoError(t, err, out)

		was := up()
		s := seats()
		l := s.Links["vm2"]
		l.MTU = 1400 + turn
		s.Links["vm2"] = l
		require.NotEmpty(t, apply(t, f, s), "the MTU changed")
		require.Empty(t, apply(t, f, s))
		require.Equal(t, was, up(), "a change of the lab took a port up or down")
	}
	s := seats()
	delete(s.Links, "vm2")
	delete(s.Nodes, "vm2")
	l := s.Links["vm"]
	l.Seat = topo.NoSeat
	s.Links["vm"] = l
	require.NoError(t, first.Down())
	apply(t, f, s)
	isUp, err := first.IsUp()
	require.NoError(t, err)
	require.True(t, isUp, "an ordinary port is up")
	_, err = second.IsUp()
	require.ErrorContains(t, err, "it is gone")
}
