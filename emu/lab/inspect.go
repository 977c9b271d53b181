package lab

import (
	"context"
	"fmt"
	"os"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/vpclab/vpclab/emu/bgp"
	"github.com/vpclab/vpclab/emu/fabric"
	"github.com/vpclab/vpclab/emu/mpls"
	"github.com/vpclab/vpclab/topo"
)

// Section names a part of a Report.
type Section string

const (
	Nodes  Section = "nodes"  // namespaces and their addresses
	Links  Section = "links"  // both ends of each, with impairments
	VPCs   Section = "vpcs"   // private clouds and where they are joined
	VSIs   Section = "vsis"   // VPLS instances and their pseudowires
	LSPs   Section = "lsps"   // incoming label maps
	VRFs   Section = "vrfs"   // VPN routing tables
	Routes Section = "routes" // VPN routes with their label stacks
	BGP    Section = "bgp"    // speakers and sessions
	RIB    Section = "rib"    // every path of every speaker

	Machines     Section = "machines"     // machines and VMs and where they run
	Recovery     Section = "recovery"     // what routers know of their links and neighbours
	Pairs        Section = "pairs"        // protected VMs, and how their seats are
	MACs         Section = "macs"         // what the bridges of VPLS instances have learned
	Reservations Section = "reservations" // bandwidth set aside, and by which path
)

// Sections are all there are, in the order they are printed.
var Sections = []Section{Nodes, Links, VPCs, VRFs, VSIs, Routes, LSPs, Reservations, BGP, Recovery, Machines, Pairs, MACs, RIB}

// onRequest are the sections that are read only when they are named.
var onRequest = []Section{Machines, MACs, RIB}

// InspectRequest chooses what to read; empty means all but those of onRequest,
// of all nodes.
type InspectRequest struct {
	Sections []Section
	Nodes    []string
}

func (r InspectRequest) wants(s Section) bool {
	if len(r.Sections) == 0 {
		return !slices.Contains(onRequest, s)
	}
	return slices.Contains(r.Sections, s)
}

func (r InspectRequest) wantsNode(n string) bool {
	return len(r.Nodes) == 0 || slices.Contains(r.Nodes, n)
}

// Status is a lab in a few words.
type Status struct {
	Lab       string    `json:"lab"`
	State     string    `json:"state"`     // empty | deploying | running | degraded
	Substrate string    `json:"substrate"` // host | uml | qemu
	Kernel    string    `json:"kernel"`    // uname -r of the lab's kernel
	CPUs      int       `json:"cpus"`
	MemoryMiB int       `json:"memory_mib"`
	Since     time.Time `json:"since"`
	Nodes     int       `json:"nodes"`
	Links     int       `json:"links"`
	Speakers  int       `json:"speakers"`
	VPNRoutes int       `json:"vpn_routes"`
	Error     string    `json:"error,omitempty"` // of the last change, or of a speaker that is gone
	Setup     *Timeline `json:"setup,omitempty"` // of the last change
}

// Report is the lab as its kernel holds it. Sections that were not asked for
// are nil.
type Report struct {
	Status Status        `json:"status"`
	Nodes  []NodeInfo    `json:"nodes,omitempty"`
	Links  []LinkInfo    `json:"links,omitempty"`
	VRFs   []VRFInfo     `json:"vrfs,omitempty"`
	Routes []VPNRoute    `json:"routes,omitempty"`
	LSPs   []LabelInfo   `json:"lsps,omitempty"`
	BGP    []SpeakerInfo `json:"bgp,omitempty"`
	RIB    []RIBInfo     `json:"rib,omitempty"`

	VPCs         []VPCInfo         `json:"vpcs,omitempty"`
	VSIs         []VSIInfo         `json:"vsis,omitempty"`
	Machines     []MachineInfo     `json:"machines,omitempty"`
	Pairs        []*PairStatus     `json:"pairs,omitempty"`
	MACs         []MACInfo         `json:"macs,omitempty"`
	Reservations []ReservationInfo `json:"reservations,omitempty"`
	Recovery     []RepairInfo      `json:"recovery,omitempty"`
}

// NodeInfo is a network namespace.
type NodeInfo struct {
	Name       string   `json:"name"`
	Kind       string   `json:"kind"`
	VPC        string   `json:"vpc,omitempty"`
	Site       string   `json:"site,omitempty"`
	Namespace  string   `json:"namespace"`
	Addresses  []string `json:"addresses"` // as in the kernel, 127.0.0.1 left out
	Interfaces int      `json:"interfaces"`
}

// LinkInfo is a veth pair.
type LinkInfo struct {
	Name string     `json:"name"`
	A    LinkEnd    `json:"a"`
	B    LinkEnd    `json:"b"`
	MTU  int        `json:"mtu"`
	AtoB Impairment `json:"a_to_b"`
	BtoA Impairment `json:"b_to_a"`
}

// LinkEnd is an interface as the kernel has it.
type LinkEnd struct {
	Node   string `json:"node"`
	Ifname string `json:"ifname"`
	Addr   string `json:"addr,omitempty"`
	MAC    string `json:"mac"`
	Master string `json:"master,omitempty"`
	Up     bool   `json:"up"`
	Qdisc  string `json:"qdisc,omitempty"` // root first, as "netem/htb"
}

// Impairment is a topo.Impairment in the words of the scenario file.
type Impairment struct {
	Rate   string  `json:"rate,omitempty"`
	Delay  string  `json:"delay,omitempty"`
	Jitter string  `json:"jitter,omitempty"`
	Loss   float64 `json:"loss_percent,omitempty"`
	Queue  int     `json:"queue_packets,omitempty"`
}

func (i Impairment) String() string {
	var words []string
	for _, w := range []string{i.Rate, i.Delay} {
		if w != "" {
			words = append(words, w)
		}
	}
	if i.Jitter != "" {
		words = append(words, "±"+i.Jitter)
	}
	if i.Loss > 0 {
		words = append(words, fmt.Sprintf("loss %g%%", i.Loss))
	}
	return strings.Join(words, " ")
}

func impairment(i topo.Impairment) Impairment {
	out := Impairment{Loss: float64(i.Loss), Queue: i.Queue}
	if i.Rate > 0 {
		out.Rate = i.Rate.String()
	}
	if i.Delay > 0 {
		out.Delay = i.Delay.String()
	}
	if i.Jitter > 0 {
		out.Jitter = i.Jitter.String()
	}
	return out
}

// VRFInfo is a VRF device.
type VRFInfo struct {
	Node  string   `json:"node"`
	VRF   string   `json:"vrf"`
	VPC   string   `json:"vpc"`
	Table int      `json:"table"`
	RD    string   `json:"rd"`
	Label uint32   `json:"label"`
	Ports []string `json:"ports"`
	Sites []string `json:"sites"`
}

// VPNRoute is a route of a VRF table.
type VPNRoute struct {
	Node string `json:"node"`
	VRF  string `json:"vrf"`
	mpls.Route
}

// LabelInfo is an entry of a router's incoming label map.
type LabelInfo struct {
	Node string `json:"node"`
	For  string `json:"for,omitempty"` // what the plan uses the label for
	mpls.Label
}

// SpeakerInfo is a BGP speaker process, or the parent of a router's FRR
// daemons.
type SpeakerInfo struct {
	Node     string    `json:"node"`
	Role     string    `json:"role"` // pe | p | reflector
	By       string    `json:"by"`   // gobgp | frr
	PID      int       `json:"pid"`
	Restarts int       `json:"restarts"`
	Fault    string    `json:"fault,omitempty"` // why it last died
	Running  bool      `json:"running"`
	Sessions []Session `json:"sessions"`
}

// RIBInfo is a path that a speaker knows.
type RIBInfo struct {
	Node string `json:"node"`
	bgp.RouteInfo
}

// Status describes the lab in a few words, without reading any namespace.
func (l *Lab) Status() Status {
	l.mu.Lock()
	s := Status{Lab: l.cfg.Name, Substrate: l.cfg.Substrate, Since: l.since, Setup: l.lastTime, State: "empty"}
	switch {
	case l.pending != nil && l.lastErr == nil:
		s.State = "deploying"
	case l.plan != nil && l.lastErr != nil, l.pending != nil:
		s.State = "degraded"
	case l.plan != nil:
		s.State = "running"
	}
	if l.lastErr != nil {
		s.Error = l.lastErr.Error()
	}
	f := l.fabric
	l.mu.Unlock()
	if f != nil {
		st := f.Current()
		s.Nodes, s.Links = len(st.Nodes), len(st.Links)
	}
	s.VPNRoutes = l.routes.count()
	for _, m := range l.speakers.all() {
		if info := m.info(); info.Running {
			s.Speakers++
		} else if s.State == "running" {
			s.State, s.Error = "degraded", fmt.Sprintf("the BGP speaker of %s was given up: %s", info.Node, info.Fault)
		}
	}
	describeKernel(&s)
	return s
}

func describeKernel(s *Status) {
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		s.Kernel = unix.ByteSliceToString(u.Release[:])
	}
	var si unix.Sysinfo_t
	if unix.Sysinfo(&si) == nil {
		s.MemoryMiB = int(uint64(si.Totalram) * uint64(si.Unit) >> 20)
	}
	if cpus, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		s.CPUs = strings.Count("\n"+string(cpus), "\nprocessor")
	}
}

// Inspect reads the lab from its kernel and its speakers.
func (l *Lab) Inspect(ctx context.Context, r InspectRequest) (*Report, error) {
	rep := &Report{Status: l.Status()}
	f := l.Fabric()
	if f == nil {
		return rep, nil
	}
	for _, s := range r.Sections {
		if !slices.Contains(Sections, s) {
			return nil, &NoSuchError{What: "section", Name: string(s), Have: words(Sections)}
		}
	}
	st := f.Current()
	for _, n := range r.Nodes {
		if _, ok := st.Nodes[n]; !ok {
			return nil, &NoSuchError{What: "node", Name: n, Have: keys(st.Nodes)}
		}
	}
	i := &inspection{lab: l, fabric: f, state: st, plan: l.planOrPending(), req: r, report: rep, ifaces: map[string]map[string]iface{}}
	for _, step := range []struct {
		wanted bool
		do     func(context.Context) error
	}{
		{r.wants(Nodes) || r.wants(Links), i.readInterfaces},
		{r.wants(Nodes), i.nodes},
		{r.wants(Links), i.links},
		{r.wants(VRFs) || r.wants(Routes) || r.wants(LSPs), i.tables},
		{r.wants(VPCs), i.vpcs},
		{r.wants(VSIs), i.vsis},
		{r.wants(Machines), i.machines},
		{r.wants(Pairs), i.pairs},
		{r.wants(MACs), i.macs},
		{r.wants(Reservations), i.reservations},
		{r.wants(BGP), i.speakers},
		{r.wants(Recovery), i.recovery},
		{r.wants(RIB), i.rib},
	} {
		if !step.wanted {
			continue
		}
		if err := step.do(ctx); err != nil {
			return nil, fmt.Errorf("inspect lab %s: %w", l.Name(), err)
		}
	}
	return rep, nil
}

func words(sections []Section) []string {
	out := make([]string, len(sections))
	for i, s := range sections {
		out[i] = string(s)
	}
	return out
}

// planOrPending is the plan that explains what is there.
func (l *Lab) planOrPending() *topo.Plan {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.pending != nil {
		return l.pending
	}
	return l.plan
}

// inspection is one Inspect under way.
type inspection struct {
	lab    *Lab
	fabric *fabric.Fabric
	state  fabric.State
	plan   *topo.Plan
	req    InspectRequest
	report *Report
	ifaces map[string]map[string]iface // node -> interface name
}

// iface is an interface as its namespace has it.
type iface struct {
	addrs  []string
	mac    string
	mtu    int
	up     bool
	master string
	qdisc  string
}

// readInterfaces visits each namespace once.
func (i *inspection) readInterfaces(ctx context.Context) error {
	for _, node := range keys(i.state.Nodes) {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if !i.req.wantsNode(node) && !i.req.wants(Links) {
			continue
		}
		err := i.fabric.Do(node, func() error {
			all, err := readInterfaces(i.req.wants(Links))
			i.ifaces[node] = all
			return err
		})
		if err != nil {
			return fmt.Errorf("node %s: %w", node, err)
		}
	}
	return nil
}

// readInterfaces lists the interfaces of the current namespace.
func readInterfaces(withQdiscs bool) (map[string]iface, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	defer h.Close()
	links, err := h.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	addrs, err := h.AddrList(nil, netlink.FAMILY_V4)
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	name := map[int]string{}
	for _, l := range links {
		name[l.Attrs().Index] = l.Attrs().Name
	}
	out := map[string]iface{}
	for _, l := range links {
		a := l.Attrs()
		x := iface{mac: a.HardwareAddr.String(), mtu: a.MTU, up: a.RawFlags&unix.IFF_UP != 0 && a.RawFlags&unix.IFF_RUNNING != 0, master: name[a.MasterIndex]}
		for _, ad := range addrs {
			if ad.LinkIndex == a.Index {
				x.addrs = append(x.addrs, ad.IPNet.String())
			}
		}
		if withQdiscs && a.Name != "lo" {
			if x.qdisc, err = readQdiscs(h, l); err != nil {
				return nil, fmt.Errorf("list qdiscs of %s: %w", a.Name, err)
			}
		}
		out[a.Name] = x
	}
	return out, nil
}

// readQdiscs names the queueing disciplines of an interface, root first.
func readQdiscs(h *netlink.Handle, l netlink.Link) (string, error) {
	list, err := h.QdiscList(l)
	if err != nil {
		return "", err
	}
	sort.Slice(list, func(i, j int) bool { // the root's parent is the largest number
		return list[i].Attrs().Parent > list[j].Attrs().Parent
	})
	var kinds []string
	for _, q := range list {
		if q.Type() != "noqueue" {
			kinds = append(kinds, q.Type())
		}
	}
	return strings.Join(kinds, "/"), nil
}

func (i *inspection) nodes(context.Context) error {
	for _, node := range i.nodeOrder() {
		if !i.req.wantsNode(node) {
			continue
		}
		info := NodeInfo{Name: node, Kind: string(i.state.Nodes[node].Kind), Namespace: "vpclab-" + i.lab.Name() + "-" + node}
		if i.plan != nil {
			if n, ok := i.plan.Node(node); ok {
				info.VPC, info.Site = n.VPC, n.Site
			}
		}
		all := i.ifaces[node]
		for _, name := range keys(all) {
			if name != "lo" {
				info.Interfaces++
			}
			for _, a := range all[name].addrs {
				if a != "127.0.0.1/8" {
					info.Addresses = append(info.Addresses, a)
				}
			}
		}
		i.report.Nodes = append(i.report.Nodes, info)
	}
	return nil
}

// nodeOrder is the plan's order, then whatever else exists.
func (i *inspection) nodeOrder() []string {
	var order []string
	seen := map[string]bool{}
	if i.plan != nil {
		for _, n := range i.plan.Nodes {
			if _, exists := i.state.Nodes[n.Name]; exists {
				order, seen[n.Name] = append(order, n.Name), true
			}
		}
	}
	for _, n := range keys(i.state.Nodes) {
		if !seen[n] {
			order = append(order, n)
		}
	}
	return order
}

func (i *inspection) links(context.Context) error {
	for _, name := range keys(i.state.Links) {
		l := i.state.Links[name]
		if !i.req.wantsNode(l.A.Node) && !i.req.wantsNode(l.B.Node) {
			continue
		}
		i.report.Links = append(i.report.Links, LinkInfo{
			Name: name, MTU: i.ifaces[l.A.Node][l.A.Ifname].mtu, A: i.end(l.A), B: i.end(l.B),
			AtoB: impairment(l.A.Egress), BtoA: impairment(l.B.Egress),
		})
	}
	return nil
}

func (i *inspection) end(e fabric.End) LinkEnd {
	x := i.ifaces[e.Node][e.Ifname]
	return LinkEnd{Node: e.Node, Ifname: e.Ifname, Addr: strings.Join(x.addrs, " "), MAC: x.mac, Master: x.master, Up: x.up, Qdisc: x.qdisc}
}

// tables reads labels and VRFs of the routers.
func (i *inspection) tables(ctx context.Context) error {
	for _, node := range i.nodeOrder() {
		switch i.state.Nodes[node].Kind {
		case topo.KindPE, topo.KindP, topo.KindRR:
		default:
			continue
		}
		if !i.req.wantsNode(node) {
			continue
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		t, err := mpls.Read(i.fabric.NSPath(node))
		if err != nil {
			return fmt.Errorf("node %s: %w", node, err)
		}
		i.labels(node, t)
		i.vrfs(node, t)
	}
	return nil
}

func (i *inspection) labels(node string, t *mpls.Tables) {
	if !i.req.wants(LSPs) {
		return
	}
	for _, label := range t.Labels {
		i.report.LSPs = append(i.report.LSPs, LabelInfo{Node: node, For: i.labelUse(node, label.In), Label: label})
	}
}

// labelUse says what the plan gave a label out for.
func (i *inspection) labelUse(node string, label uint32) string {
	if i.plan == nil {
		return ""
	}
	for _, lsp := range i.plan.LSPs {
		if lsp.Egress == node && lsp.Label == label {
			return "itself, from FRR"
		}
		for _, hop := range lsp.Hops {
			if hop.Node == node && hop.InLabel == label {
				return "LSP to " + lsp.Egress
			}
		}
	}
	for _, v := range i.plan.VPCs {
		for _, r := range v.VRFs {
			if r.PE == node && r.Label == label {
				return "VPC " + v.Name
			}
		}
		for _, s := range v.VSIs {
			if ve := int(label) - int(s.LabelBase) + s.BlockOffset; s.PE == node && ve >= s.BlockOffset && ve < s.BlockOffset+s.BlockSize {
				return fmt.Sprintf("VPC %s, way to VE %d", v.Name, ve)
			}
		}
	}
	return i.reservedUse(node, label)
}

func (i *inspection) vrfs(node string, t *mpls.Tables) {
	for _, v := range t.VRFs {
		if i.req.wants(VRFs) {
			info := VRFInfo{Node: node, VRF: v.Name, Table: v.Table, Ports: v.Ports}
			i.explainVRF(&info)
			i.report.VRFs = append(i.report.VRFs, info)
		}
		if i.req.wants(Routes) {
			for _, r := range v.Routes {
				i.report.Routes = append(i.report.Routes, VPNRoute{Node: node, VRF: v.Name, Route: r})
			}
		}
	}
}

// explainVRF adds what the plan knows of a VRF and the kernel does not.
func (i *inspection) explainVRF(info *VRFInfo) {
	if i.plan == nil {
		return
	}
	for _, v := range i.plan.VPCs {
		for _, r := range v.VRFs {
			if r.PE != info.Node || r.Name != info.VRF {
				continue
			}
			info.VPC, info.RD, info.Label = v.Name, r.RD, r.Label
			for _, a := range v.Attachments {
				if k, here := a.At(r.PE); here && k.VRF == r.Name && a.Joined {
					info.Sites = append(info.Sites, a.Site)
				}
			}
		}
	}
}

// info is the state of one speaker process.
func (m *member) info() SpeakerInfo {
	m.mu.Lock()
	defer m.mu.Unlock()
	info := SpeakerInfo{Node: m.node, Role: "pe", By: "gobgp", Restarts: m.restarts, Fault: m.fault, Running: !m.dead}
	switch {
	case m.cfg != nil && m.cfg.Reflector:
		info.Role = "reflector"
	case m.cfg != nil && len(m.cfg.Neighbors) == 0:
		info.Role = "p"
	}
	if m.routing == topo.RoutingFRR {
		info.By = "frr"
	}
	if !m.dead {
		info.PID = m.proc.Pid()
	}
	return info
}

func (i *inspection) speakers(context.Context) error {
	configs := i.lab.speakers.configs()
	for _, m := range i.lab.speakers.all() {
		info := m.info()
		if !i.req.wantsNode(info.Node) {
			continue
		}
		var expected []string
		for _, n := range configs[info.Node].Neighbors {
			expected = append(expected, n.String())
		}
		info.Sessions = i.lab.sessions.of(info.Node, expected)
		i.report.BGP = append(i.report.BGP, info)
	}
	return nil
}

func (i *inspection) rib(ctx context.Context) error {
	for _, m := range i.lab.speakers.all() {
		proc, runs := i.lab.speakers.get(m.node)
		if !runs || !i.req.wantsNode(m.node) {
			continue
		}
		paths, err := proc.RIB(ctx)
		if err != nil {
			return fmt.Errorf("RIB of %s: %w", m.node, err)
		}
		for _, p := range paths {
			i.report.RIB = append(i.report.RIB, RIBInfo{Node: m.node, RouteInfo: p})
		}
	}
	return nil
}
