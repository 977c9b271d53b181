package fabric_test

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/fabric"
	"github.com/vpclab/vpclab/emu/kernel/kerneltest"
	"github.com/vpclab/vpclab/topo"
)

// triangle is three routers, each with an address on lo that the others reach
// over their common link, by IP and by label. The links have a delay, and two of
// them a line, of which one is divided.
func triangle() fabric.State {
	s := fabric.State{Nodes: map[string]fabric.Node{}, Links: map[string]fabric.Link{}}
	names := []string{"r0", "r1", "r2"}
	lo := func(i int) netip.Prefix { return netip.MustParsePrefix(fmt.Sprintf("10.9.0.%d/32", i)) }
	addr := func(i, j int) netip.Prefix {
		return netip.MustParsePrefix(fmt.Sprintf("10.8.%d.%d/24", min(i, j)*10+max(i, j), 1+i))
	}
	for i, name := range names {
		n := fabric.Node{Name: name, Kind: topo.KindP, Lo: []netip.Prefix{lo(i)},
			Sysctls: map[string]string{"net.ipv4.ip_forward": "1", "net.mpls.platform_labels": "1000"}}
		for j := range names {
			if j == i {
				continue
			}
			dev := "to-" + names[j]
			n.Routes = append(n.Routes, fabric.Route{Dst: lo(j), Via: addr(j, i).Addr(), Dev: dev, Src: lo(i).Addr()})
			n.MPLS = append(n.MPLS, fabric.MPLSRoute{In: uint32(100 + j), Via: addr(j, i).Addr(), Dev: dev})
		}
		s.Nodes[name] = n
	}
	for i := range names {
		for j := i + 1; j < len(names); j++ {
			e := topo.Impairment{Delay: topo.Duration(time.Millisecond)}
			if j == 2 {
				e.Rate = 50e6
			}
			l := fabric.Link{MTU: 1500,
				A: fabric.End{Node: names[i], Ifname: "to-" + names[j], MAC: topo.MAC{2, 8, 0, byte(i), 0, byte(j)}, Addr: addr(i, j), Egress: e, MPLSInput: true},
				B: fabric.End{Node: names[j], Ifname: "to-" + names[i], MAC: topo.MAC{2, 8, 0, byte(j), 0, byte(i)}, Addr: addr(j, i), Egress: e, MPLSInput: true},
			}
			if i == 1 {
				l.A.Classes = []fabric.Class{{Label: 77, Depth: 1, Rate: 20e6}}
			}
			s.Links[names[i]+"--"+names[j]] = l
		}
	}
	return s
}

// holds is what the kernel holds of the triangle, in words, counters apart.
func holds(t *testing.T, f *fabric.Fabric) string {
	t.Helper()
	var all strings.Builder
	for _, node := range []string{"r0", "r1", "r2"} {
		require.NoError(t, f.Do(node, func() error {
			out, err := exec.Command("sh", "-c", "ip -br link; ip route show table all; ip -f mpls route; tc qdisc").CombinedOutput()
			fmt.Fprintf(&all, "== %s\n%s", node, out)
			return err
		}))
	}
	return all.String()
}

// reached says whether a datagram from one router's lo comes to another's.
func reached(t *testing.T, f *fabric.Fabric, from, to int) bool {
	t.Helper()
	var in, out *net.UDPConn
	addr := func(i int) *net.UDPAddr { return &net.UDPAddr{IP: net.IPv4(10, 9, 0, byte(i)), Port: 4000} }
	require.NoError(t, f.Do(fmt.Sprint("r", to), func() (err error) { in, err = net.ListenUDP("udp4", addr(to)); return err }))
	defer in.Close()
	require.NoError(t, f.Do(fmt.Sprint("r", from), func() (err error) { out, err = net.ListenUDP("udp4", addr(from)); return err }))
	defer out.Close()
	buf := make([]byte, 10)
	for range 2 { // the first may wait for ARP
		_, _ = out.WriteToUDP([]byte("x"), addr(to))
		require.NoError(t, in.SetReadDeadline(time.Now().Add(50*time.Millisecond)))
		if _, _, err := in.ReadFromUDP(buf); err == nil {
			return true
		}
	}
	return false
}

func TestWounds(t *testing.T) {
	kerneltest.Need(t)
	f := start(t, "wounds")
	apply(t, f, triangle())
	at := func(from, to int) fabric.EndAt {
		return fabric.EndAt{Node: fmt.Sprint("r", from), Ifname: fmt.Sprint("to-r", to)}
	}
	for _, c := range []struct {
		name      string
		wound     fabric.Wound
		cut       string // pairs that do not reach each other: "01 10"
		noCarrier string // ends without carrier, dark ones included
	}{
		{"a cut link", fabric.Wound{Dark: []fabric.EndAt{at(0, 1), at(1, 0)}}, "01 10", "01 10"},
		{"a link of which one end is down", fabric.Wound{Dark: []fabric.EndAt{at(0, 2)}}, "02 20", "02 20"},
		{"an end that hears nothing", fabric.Wound{Deaf: []fabric.EndAt{at(1, 2)}}, "21", ""},
		{"two that do not hear each other", fabric.Wound{Deaf: []fabric.EndAt{at(1, 2), at(2, 1)}}, "12 21", ""},
		{"a line that loses all", fabric.Wound{Worse: []fabric.Worse{{EndAt: at(0, 1), Impairment: topo.Impairment{Loss: 100}}}}, "01", ""},
		{"a dead router", fabric.Wound{Dead: []string{"r2"}}, "02 12 20 21", "02 20 12 21"},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := holds(t, f)
			id, moment, err := f.Strike(c.wound)
			took := event.Now().Sub(moment)
			require.NoError(t, err)
			t.Logf("struck within %v", took)
			for from := range 3 {
				for to := range 3 {
					pair := fmt.Sprint(from, to)
					pair = strings.ReplaceAll(pair, " ", "")
					if from == to || c.name == "an end that hears nothing" && pair == "12" { // it does not hear the answer to its ARP request
						continue
					}
					require.Equal(t, !strings.Contains(c.cut, pair), reached(t, f, from, to), "from r%d to r%d", from, to)
					l := netlinkIn(t, f, fmt.Sprint("r", from), fmt.Sprint("to-r", to))
					require.Equal(t, !strings.Contains(c.noCarrier, pair), l.Attrs().OperState == netlink.OperUp, "carrier of r%d to r%d", from, to)
				}
			}
			require.Empty(t, apply(t, f, triangle()), "an Apply mends nothing")
			require.Empty(t, apply(t, f, triangle()))
			_, err = f.Heal(t.Context(), id)
			require.NoError(t, err)
			require.Equal(t, before, holds(t, f))
			ch, err := f.Plan(triangle())
			require.NoError(t, err)
			require.Empty(t, ch)
			for from := range 3 {
				for to := range 3 {
					// A question for an address that went without an answer is asked again
					// after a second.
					require.Eventually(t, func() bool { return from == to || reached(t, f, from, to) }, 3*time.Second, time.Millisecond,
						"from r%d to r%d after it was healed", from, to)
				}
			}
		})
	}
}

// TestWoundsInAnyOrder strikes and heals at random, several at the same time and
// on the same objects, with changes of the lab between.
func TestWoundsInAnyOrder(t *testing.T) {
	kerneltest.Need(t)
	f := start(t, "wounded")
	apply(t, f, triangle())
	before := holds(t, f)
	r := rand.New(rand.NewPCG(5, 1))
	end := func() fabric.EndAt {
		from := r.IntN(3)
		return fabric.EndAt{Node: fmt.Sprint("r", from), Ifname: fmt.Sprint("to-r", (from+1+r.IntN(2))%3)}
	}
	var open []int
	var log []string
	for range 60 {
		switch n := r.IntN(10); {
		case n < 4:
			var w fabric.Wound
			switch r.IntN(4) {
			case 0:
				w.Dark = []fabric.EndAt{end(), end()}
			case 1:
				w.Deaf = []fabric.EndAt{end()}
			case 2:
				w.Worse = []fabric.Worse{{EndAt: end(), Impairment: topo.Impairment{Rate: topo.Rate(1+r.IntN(80)) * 1e6, Delay: topo.Duration(r.IntN(9)) * 1e6, Loss: topo.Percent(r.IntN(3))}}}
			case 3:
				w.Dead = []string{fmt.Sprint("r", r.IntN(3))}
			}
			id, _, err := f.Strike(w)
			log = append(log, fmt.Sprintf("strike %d: %+v", id, w))
			require.NoError(t, err, strings.Join(log, "\n"))
			open = append(open, id)
		case n < 8 && len(open) > 0:
			i := r.IntN(len(open))
			log = append(log, fmt.Sprintf("heal %d", open[i]))
			_, err := f.Heal(t.Context(), open[i])
			require.NoError(t, err, strings.Join(log, "\n"))
			open = append(open[:i], open[i+1:]...)
		case n == 8:
			log = append(log, "apply")
			apply(t, f, triangle())
			ch, err := f.Plan(triangle())
			require.NoError(t, err)
			require.Empty(t, ch, strings.Join(log, "\n"))
		}
	}
	for len(open) > 0 {
		_, err := f.Heal(t.Context(), open[0])
		require.NoError(t, err, strings.Join(log, "\n"))
		open = open[1:]
	}
	require.Equal(t, before, holds(t, f), strings.Join(log, "\n"))
	ch, err := f.Plan(triangle())
	require.NoError(t, err)
	require.Empty(t, ch, strings.Join(log, "\n"))
	require.False(t, f.Wounded())
}

// TestCarrierIsToldAtOnce: a router whose neighbour crashed hears of it from its
// own kernel within milliseconds.
func TestCarrierIsToldAtOnce(t *testing.T) {
	kerneltest.Need(t)
	f := start(t, "carrier")
	apply(t, f, triangle())
	for range 5 {
		updates, done := make(chan netlink.LinkUpdate, 100), make(chan struct{})
		require.NoError(t, f.Do("r0", func() error { return netlink.LinkSubscribe(updates, done) }))
		id, at, err := f.Strike(fabric.Wound{Dead: []string{"r1"}})
		require.NoError(t, err)
		deadline := time.After(5 * time.Second)
		for told := false; !told; {
			select {
			case u := <-updates:
				told = u.Attrs().Name == "to-r1" && u.IfInfomsg.Flags&unix.IFF_LOWER_UP == 0
			case <-deadline:
				t.Fatal("waited 5 s for the kernel to tell that to-r1 lost its carrier")
			}
		}
		took := event.Now().Sub(at)
		t.Logf("told after %v", took)
		require.Less(t, took, 300*time.Millisecond)
		close(done)
		_, err = f.Heal(t.Context(), id)
		require.NoError(t, err)
	}
}
