package kernel

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// feature is one thing that a lab asks of a kernel, and whether it was had
// when it was tried.
type feature struct {
	Name     string   `json:"name"`
	Modules  []string `json:"modules"`
	Optional bool     `json:"optional"`
	OK       bool     `json:"ok"`
	Detail   string   `json:"detail"`
}

// missingFeatures picks those without which no lab can be built.
func missingFeatures(all []feature) []feature {
	var out []feature
	for _, f := range all {
		if !f.OK && !f.Optional {
			out = append(out, f)
		}
	}
	return out
}

// probe is one attempt, made in a namespace that is thrown away after it.
// Later ones build on what earlier ones made.
type probe struct {
	name     string
	modules  []string
	optional bool
	try      func(h *netlink.Handle) error
}

// The probes use addresses of RFC 5737, which mean nothing to anybody, and go
// no further than a namespace without a way out.
var probes = []probe{
	{"veth links", []string{"veth"}, false, probeVeth},
	{"bridges", []string{"bridge"}, false, func(h *netlink.Handle) error {
		return h.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "probe-br"}})
	}},
	{"VRFs", []string{"vrf"}, false, func(h *netlink.Handle) error {
		return h.LinkAdd(&netlink.Vrf{LinkAttrs: netlink.LinkAttrs{Name: "probe-vrf"}, Table: 1001})
	}},
	{"MPLS forwarding", []string{"mpls_router", "mpls_gso"}, false, probeMPLSRouter},
	{"MPLS label push", []string{"mpls_iptunnel"}, false, probeMPLSPush},
	{"netem impairments", []string{"sch_netem"}, false, probeNetem},
	{"HTB classes", []string{"sch_htb"}, false, probeHTB},
	{"nftables on bridges", []string{"nf_tables"}, true, probeNftables},
	{"ingress hooks", []string{"sch_ingress"}, true, probeIngress},
}

// probeFeatures tries all probes on the kernel that this process runs on.
func probeFeatures() []feature {
	result := make(chan []feature)
	go func() {
		// The thread ends with this goroutine, because it stays locked, and
		// its namespace with it.
		runtime.LockOSThread()
		result <- probeHere()
	}()
	return <-result
}

func probeHere() []feature {
	all := make([]feature, 0, len(probes)+1)
	ns := feature{Name: "network namespaces"}
	h, err := newProbeNamespace()
	if err != nil {
		ns.Detail = err.Error()
		if errors.Is(err, unix.EPERM) {
			ns.Detail = "needs root"
		}
		all = append(all, ns)
		return all
	}
	defer h.Close()
	ns.OK, ns.Detail = true, "works"
	all = append(all, ns)
	for _, p := range probes {
		f := feature{Name: p.name, Modules: p.modules, Optional: p.optional, OK: true, Detail: "works"}
		if err := p.try(h); err != nil {
			f.OK, f.Detail = false, err.Error()
		}
		all = append(all, f)
	}
	return all
}

// newProbeNamespace moves this thread into a new network namespace.
func newProbeNamespace() (*netlink.Handle, error) {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return nil, err
	}
	return netlink.NewHandle(unix.NETLINK_ROUTE)
}

func probeVeth(h *netlink.Handle) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "probe0"
	if err := h.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "probe1"}); err != nil {
		return err
	}
	for _, name := range []string{"probe0", "probe1"} {
		link, err := h.LinkByName(name)
		if err == nil {
			err = h.LinkSetUp(link)
		}
		if err != nil {
			return err
		}
	}
	link, err := h.LinkByName("probe0")
	if err != nil {
		return err
	}
	addr, err := netlink.ParseAddr("192.0.2.1/24")
	if err != nil {
		return err
	}
	return h.AddrAdd(link, addr)
}

// probeLink finds the link that probeVeth made.
func probeLink(h *netlink.Handle) (netlink.Link, error) {
	link, err := h.LinkByName("probe0")
	if err != nil {
		return nil, errors.New("not tried: no veth link")
	}
	return link, nil
}

func probeMPLSRouter(h *netlink.Handle) error {
	link, err := probeLink(h)
	if err != nil {
		return err
	}
	if err := writeSysctl("net.mpls.platform_labels", "1000"); err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return errors.New("no MPLS in this kernel")
		}
		return err
	}
	label := 100
	return h.RouteAdd(&netlink.Route{
		LinkIndex: link.Attrs().Index,
		MPLSDst:   &label,
		NewDst:    &netlink.MPLSDestination{Labels: []int{200}},
		Via:       &netlink.Via{AddrFamily: nl.FAMILY_V4, Addr: net.IPv4(192, 0, 2, 2).To4()},
	})
}

func probeMPLSPush(h *netlink.Handle) error {
	link, err := probeLink(h)
	if err != nil {
		return err
	}
	return h.RouteAdd(&netlink.Route{
		LinkIndex: link.Attrs().Index,
		Dst:       &net.IPNet{IP: net.IPv4(198, 51, 100, 0).To4(), Mask: net.CIDRMask(24, 32)},
		Gw:        net.IPv4(192, 0, 2, 2).To4(),
		Encap:     &netlink.MPLSEncap{Labels: []int{300, 400}},
	})
}

func probeNetem(h *netlink.Handle) error {
	link, err := probeLink(h)
	if err != nil {
		return err
	}
	return h.QdiscAdd(netlink.NewNetem(
		netlink.QdiscAttrs{LinkIndex: link.Attrs().Index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT},
		netlink.NetemQdiscAttrs{Latency: 1000},
	))
}

// probeHTB uses the other end of the link, whose root is free.
func probeHTB(h *netlink.Handle) error {
	link, err := h.LinkByName("probe1")
	if err != nil {
		return errors.New("not tried: no veth link")
	}
	return h.QdiscAdd(netlink.NewHtb(
		netlink.QdiscAttrs{LinkIndex: link.Attrs().Index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT},
	))
}

func probeIngress(h *netlink.Handle) error {
	link, err := probeLink(h)
	if err != nil {
		return err
	}
	return h.QdiscAdd(&netlink.Clsact{
		QdiscAttrs: netlink.QdiscAttrs{LinkIndex: link.Attrs().Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT},
	})
}

// probeNftables tries the bridge family: it is the one that firewall rules on a
// shared LAN need, and the only one in Debian's User Mode Linux.
func probeNftables(*netlink.Handle) error {
	conn, err := nftables.New()
	if err != nil {
		return err
	}
	conn.AddTable(&nftables.Table{Name: "probe", Family: nftables.TableFamilyBridge})
	return conn.Flush()
}

// serveProbe is the inside of probeBoot: it writes what was found and waits to
// be switched off.
func serveProbe(ctx context.Context, ln net.Listener) error {
	conn, err := ln.Accept()
	if err != nil {
		return err
	}
	if err := json.NewEncoder(conn).Encode(probeFeatures()); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}

// probeMemory is what a kernel gets that is booted to be tried, in bytes.
var probeMemory = map[Substrate]int64{UML: 192 << 20, QEMU: 384 << 20}

// probeBoot boots a kernel, tries the features inside, and stops it.
func probeBoot(ctx context.Context, s Substrate) (features []feature, m *Machine, err error) {
	m, err = Start(ctx, Config{Substrate: s, Lab: "probe", Memory: probeMemory[s], mode: modeProbe})
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		if stopErr := m.Stop(ctx); err == nil {
			err = stopErr
		}
	}()
	conn, err := m.Dial(ctx)
	if err != nil {
		return nil, nil, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	if err := json.NewDecoder(conn).Decode(&features); err != nil {
		return nil, nil, fmt.Errorf("probe boot: %w", errors.Join(context.Cause(ctx), err))
	}
	return features, m, nil
}
