package vpntest

import (
	"encoding/binary"
	"net/netip"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/vpclab/vpclab/topo"
)

// Station is a machine's place on its LAN.
type Station struct {
	Name   string
	Ifname string
	MAC    topo.MAC
	Addr   netip.Addr
	Site   string
	*Wire
}

// Stations are the machines of a VPC, each listening, in the plan's order.
func (l *Lab) Stations(vpc string) []*Station {
	l.t.Helper()
	var out []*Station
	for _, m := range l.Plan.Machines() {
		if m.VPC != vpc {
			continue
		}
		s := &Station{Name: m.Name, Addr: m.Addr, Site: m.Site}
		for _, k := range l.Plan.Links {
			for _, e := range []topo.Endpoint{k.A, k.B} {
				if e.Node == m.Name {
					s.Ifname, s.MAC = e.Ifname, e.MAC
				}
			}
		}
		s.Wire = l.Tap(s.Name, s.Ifname)
		out = append(out, s)
	}
	require.NotEmpty(l.t, out, "machines of %s", vpc)
	return out
}

// Marked is a frame that nobody else sends: of the EtherType for local
// experiments (IEEE 802), and with a text of its own.
func Marked(dst, src [6]byte, text string) []byte {
	frame := append(append([]byte(nil), dst[:]...), src[:]...)
	frame = binary.BigEndian.AppendUint16(frame, unix.ETH_P_802_EX1)
	frame = append(append(frame, text...), 0)
	return append(frame, make([]byte, max(0, 60-len(frame)))...)
}

// GratuitousARP is what a machine says when it comes to a place: an ARP request
// for its own address (RFC 5227 section 3).
func GratuitousARP(mac topo.MAC, addr netip.Addr) []byte {
	frame := append([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, mac[:]...)
	frame = append(frame, 0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 1)
	frame = append(append(frame, mac[:]...), addr.AsSlice()...)
	frame = append(append(frame, 0, 0, 0, 0, 0, 0), addr.AsSlice()...)
	return append(frame, make([]byte, 60-len(frame))...)
}

// Heard counts the frames with that mark that came in, until there are enough
// or wait is over. Other frames are forgotten.
func (w *Wire) Heard(text string, wait time.Duration, enough int) int {
	w.l.t.Helper()
	counts := map[string]int{}
	w.Tally(counts, wait, func() bool { return counts[text] >= enough })
	return counts[text]
}

// Tally counts the marked frames that come in, by their mark, until there are
// enough or wait is over.
func (w *Wire) Tally(counts map[string]int, wait time.Duration, enough func() bool) {
	w.l.t.Helper()
	deadline := time.Now().Add(wait)
	for !enough() {
		f, ok := w.Next(time.Until(deadline), func(f Frame) bool { return !f.Out && f.Text != "" })
		if !ok {
			return
		}
		counts[f.Text]++
	}
}
