package traffic

import (
	"context"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/vpclab/vpclab/emu/kernel/kerneltest"
	"github.com/vpclab/vpclab/topo"
)

// etherOn opens a station in every machine of lan.
func etherOn(t testing.TB, eps []Endpoint, more ...Station) (*Ether, []LANPort) {
	t.Helper()
	var stations []Station
	var ports []LANPort
	for i, ep := range eps {
		stations = append(stations, Station{Node: ep.Name, Ifname: "eth0"})
		p := LANPort{Endpoint: ep, Station: i}
		if err := enter(ep.Name, func() error {
			l, err := netlink.LinkByName("eth0")
			if err == nil {
				p.MAC = topo.MAC(l.Attrs().HardwareAddr)
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
		ports = append(ports, p)
	}
	e, err := OpenEther(enter, append(stations, more...))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	return e, ports
}

func askFrames(t testing.TB, e *Ether, cfg FrameConfig) *FrameMatrix {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	if cfg.Allowed == nil {
		cfg.Allowed = sameVPC
	}
	m, err := e.Frames(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func wantCells(t testing.TB, m *FrameMatrix, want ...string) {
	t.Helper()
	for i, row := range m.Cells {
		if row != want[i] {
			t.Errorf("row %s: got %s, want %s", m.Endpoints[i].Name, row, want[i])
		}
	}
}

// twins gives machine b-i the address of a-i.
func twins(t testing.TB, a, b []Endpoint) {
	t.Helper()
	for i := range a {
		mac := fmt.Sprintf("02:00:00:00:00:%02x", i+1)
		for _, ep := range []Endpoint{a[i], b[i]} {
			in(t, ep.Name, "link set eth0 address "+mac)
		}
	}
}

func TestFramesTellLANsWithTheSameAddressesApart(t *testing.T) {
	kerneltest.Need(t)
	a, b := lan(t, "a", 3), lan(t, "b", 3)
	twins(t, a, b)
	e, ports := etherOn(t, append(a, b...))
	m := askFrames(t, e, FrameConfig{Ports: ports})
	wantCells(t, m, ".AAfff", "A.Afff", "AA.fff", "fff.AA", "fffA.A", "fffAA.")
	if m.Allowed != 12 || m.Reached != 12 || m.Forbidden != 18 || m.Leaks != 0 || len(m.Doubled) != 0 || m.Tried != 18 || m.Untried != 0 || m.Refused != 0 {
		t.Errorf("%+v", m)
	}
	t.Logf("%d frames, %d seen, %v", m.Frames, m.Seen, m.End.Sub(m.Start))
}

func TestFramesFindACableBetweenLANs(t *testing.T) {
	kerneltest.Need(t)
	eps := append(lan(t, "a", 2), lan(t, "b", 2)...)
	in(t, "sw-a", "link add leak type veth peer name leak netns sw-b", "link set leak master br0 up")
	in(t, "sw-b", "link set leak master br0 up")
	awaitOperational(t, "sw-a", "leak")
	awaitOperational(t, "sw-b", "leak")
	e, ports := etherOn(t, eps)
	m := askFrames(t, e, FrameConfig{Ports: ports})
	wantCells(t, m, ".ALL", "A.LL", "LL.A", "LLA.")
	for _, p := range m.Leaked {
		if p.Broadcasts == 0 || p.Unicasts == 0 {
			t.Errorf("%v: both kinds of frames were to cross", p)
		}
	}
}

// awaitOperational waits until the kernel has looked at a new port's carrier:
// a bridge does not forward by it before.
func awaitOperational(t *testing.T, node, dev string) {
	t.Helper()
	for until := time.Now().Add(5 * time.Second); ; {
		var state netlink.LinkOperState
		err := enter(node, func() error {
			l, err := netlink.LinkByName(dev)
			if err == nil {
				state = l.Attrs().OperState
			}
			return err
		})
		switch {
		case err != nil:
			t.Fatal(err)
		case state == netlink.OperUp:
			return
		case time.Now().After(until):
			t.Fatalf("waited 5s: %s:%s is %v", node, dev, state)
		}
	}
}

func TestFramesFindCopiesAndASilentMachine(t *testing.T) {
	kerneltest.Need(t)
	eps := lan(t, "a", 3)
	if err := enter("sw-a", func() error { return mirror(t, "p2", "p1") }); err != nil { // a second way from a-2 to a-1
		t.Fatal(err)
	}
	in(t, "sw-a", "link set p3 down")
	e, ports := etherOn(t, eps)
	m := askFrames(t, e, FrameConfig{Ports: ports, Deadline: 200 * time.Millisecond})
	wantCells(t, m, ".Aa", "A.a", "aa.")
	if len(m.Missing) != 4 {
		t.Errorf("missing %v", m.Missing)
	}
	if len(m.Doubled) != 1 || m.Doubled[0].From != "a-2" || m.Doubled[0].To != "a-1" {
		t.Errorf("doubled %v; want a-2 -> a-1", m.Doubled)
	}
}

// mirror copies what comes in by a port to another, in the namespace it is
// called in.
func mirror(t testing.TB, from, to string) error {
	t.Helper()
	src, err := netlink.LinkByName(from)
	if err != nil {
		return err
	}
	dst, err := netlink.LinkByName(to)
	if err != nil {
		return err
	}
	if err := netlink.QdiscAdd(&netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: src.Attrs().Index, Parent: netlink.HANDLE_CLSACT, Handle: netlink.MakeHandle(0xffff, 0)}}); err != nil {
		return err
	}
	act := netlink.NewMirredAction(dst.Attrs().Index)
	act.MirredAction, act.Action = netlink.TCA_EGRESS_MIRROR, netlink.TC_ACT_PIPE
	return netlink.FilterAdd(&netlink.MatchAll{
		FilterAttrs: netlink.FilterAttrs{LinkIndex: src.Attrs().Index, Parent: netlink.HANDLE_MIN_INGRESS, Priority: 1, Protocol: 3},
		Actions:     []netlink.Action{act},
	})
}

func TestAStationSeesWhatIsDeliveredToTheNode(t *testing.T) {
	kerneltest.Need(t)
	eps := lan(t, "a", 2)
	e, ports := etherOn(t, eps, Station{Node: "a-2"}, Station{Node: "sw-a", Ifname: "p1", Sent: true})
	n := e.Numbers(1)
	b := AppendEthernet(nil, ports[1].MAC, ports[0].MAC, 0x0800)
	b = AppendIPv4(b, Protocol, eps[0].Addr, eps[1].Addr, MarkLen)
	b = e.AppendMark(b, n)
	if refused, why, err := e.Send(0, [][]byte{b}); err != nil || refused > 0 {
		t.Fatal(refused, why, err)
	}
	var seen []string
	for end := time.Now().Add(5 * time.Second); len(seen) < 3 && time.Now().Before(end); {
		if _, err := e.Read(time.Until(end), func(f *Frame) {
			if got, at, ok := e.Marked(f.Data); ok && got == n {
				seen = append(seen, fmt.Sprintf("%s out=%v at=%d %s", e.stations[f.Station], f.Out, at, net.HardwareAddr(f.Data[:6])))
			}
		}); err != nil {
			t.Fatal(err)
		}
	}
	all := strings.Join(seen, "\n")
	for _, want := range []string{"a-2:eth0 out=false at=34", "a-2 out=false at=20", "sw-a:p1 out=false at=34"} {
		if !strings.Contains(all, want) {
			t.Errorf("seen:\n%s\nlacks %q", all, want)
		}
	}
	if drops, err := e.Drops(); err != nil || drops != 0 {
		t.Errorf("%d drops, %v", drops, err)
	}
}
