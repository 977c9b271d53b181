package bgp_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/kernel/kerneltest"
	"github.com/vpclab/vpclab/emu/mpls/vpntest"
)

// homedNetwork has a VPLS with a site at two PEs, one of which has a site of its
// own as well.
//
//	s1 -- pe1 -- p1 -- pe2 -- s2
//	              |           |
//	             pe3 ---------+
//	              |
//	              s3
const homedNetwork = `
name: homed
topology:
  backbone:
    pe: [pe1, pe2, pe3]
    p: [p1]
    mtu: 1600
    links:
      - {between: [pe1, p1]}
      - {between: [pe2, p1]}
      - {between: [pe3, p1]}
  sites:
    s1: {kind: enterprise, pe: pe1, machines: 1}
    s2: {kind: enterprise, pe: pe2, backup-pe: pe3, machines: 2}
    s3: {kind: enterprise, pe: pe3, machines: 1}
vpcs:
  lan: {service: vpls, subnet: 10.7.0.0/24, sites: [s1, s2, s3]}
`

// TestSiteAtTwoPEs: whoever forwards for it, each frame comes once, and nobody
// sends to the one that forwards no longer.
func TestSiteAtTwoPEs(t *testing.T) {
	kerneltest.Need(t)
	l := &lanLab{network: newNetwork(t, vpntest.Expand(t, homedNetwork))}
	l.lan = l.Stations("lan")
	l.Wait(t, 0, "pe2", "port.opened", "vsi=vsi-lan", "site=2")
	require.Zero(t, l.Count(0, "pe3", "port.opened"))
	l.mesh()
	s1, s2 := l.at("s1", 1), l.at("s2", 2)
	l.answered(s1, s2, vpntest.Question{})
	require.Equal(t, l.port("pe1", "pe2"), l.behind("pe1", "vsi-lan", s2.MAC))

	t.Run("the first PE's speaker is killed", func(t *testing.T) {
		m, began := l.Mark(), event.Now()
		require.NoError(t, l.s["pe2"].Kill())
		opened := l.Wait(t, m, "pe3", "port.opened", "site=2")
		l.Wait(t, m, "pe1", "pw.down", "ve=2") // and with the port goes what was learned there
		t.Logf("pe3 forwards %v after the end of pe2's speaker", opened.T.Sub(began))
		l.answered(s1, s2, vpntest.Question{})
		require.Equal(t, l.port("pe1", "pe3"), l.behind("pe1", "vsi-lan", s2.MAC))
		l.mesh()

		m, began = l.Mark(), event.Now()
		l.start("pe2")
		l.configure("pe2")
		l.Wait(t, m, "pe2", "port.closed", "site=2")
		closed := l.Wait(t, m, "pe3", "port.closed", "site=2")
		back := l.Wait(t, m, "pe2", "port.opened", "site=2")
		require.Greater(t, back.T, closed.T, "one closes before the other opens")
		l.Wait(t, m, "pe1", "pw.up", "ve=2")
		l.Wait(t, m, "pe3", "pw.up", "ve=2")
		t.Logf("pe2 forwards again %v after its successor's start, %v after pe3 has closed", back.T.Sub(began), back.T.Sub(closed.T))
		l.Wait(t, m, "pe1", "mac.flushed", "dev="+l.port("pe1", "pe3"))
		l.answered(s1, s2, vpntest.Question{})
		require.Equal(t, l.port("pe1", "pe2"), l.behind("pe1", "vsi-lan", s2.MAC))
		l.mesh()
	})
	t.Run("the circuit to the first PE is cut", func(t *testing.T) {
		m, began := l.Mark(), event.Now()
		l.In("lan-s2-ce", func() error { return setLink("wan", false) })
		opened := l.Wait(t, m, "pe3", "port.opened", "site=2")
		flushed := l.Wait(t, m, "pe1", "mac.flushed", "dev="+l.port("pe1", "pe2"))
		t.Logf("pe3 forwards %v after the cut, pe1 has forgotten %v after it", opened.T.Sub(began), flushed.T.Sub(began))
		l.answered(s1, s2, vpntest.Question{})
		require.Equal(t, l.port("pe1", "pe3"), l.behind("pe1", "vsi-lan", s2.MAC))
		l.mesh()

		m = l.Mark()
		l.In("lan-s2-ce", func() error { return setLink("wan", true) })
		closed := l.Wait(t, m, "pe3", "port.closed", "site=2")
		back := l.Wait(t, m, "pe2", "port.opened", "site=2")
		require.Greater(t, back.T, closed.T)
		l.Wait(t, m, "pe1", "mac.flushed", "dev="+l.port("pe1", "pe3"))
		l.answered(s1, s2, vpntest.Question{})
		l.mesh()
	})
	t.Run("the first PE leaves in order", func(t *testing.T) {
		m := l.Mark()
		require.NoError(t, l.s["pe2"].Stop(context.Background()))
		l.Wait(t, m, "pe3", "port.opened", "site=2")
		l.Wait(t, m, "pe1", "pw.down", "ve=2")
		l.answered(s1, s2, vpntest.Question{})
		l.mesh()
	})
}
