package lab

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sort"
	"strconv"
	"strings"
	"sync"

	"github.com/vpclab/vpclab/emu/bgp"
	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/topo"
)

// routeKey is the place of what a PE learns by BGP: a prefix in a VRF, or, in
// a VSI, the pseudowire to the PE whose loopback the prefix is.
type routeKey struct {
	PE, VRF string
	Prefix  netip.Prefix
}

func (k routeKey) String() string {
	if k.PE == "" {
		return k.VRF
	}
	return k.PE + " " + k.VRF + " " + k.Prefix.String()
}

// pseudowire is the place of a pseudowire.
func pseudowire(pe, vsi string, egress netip.Addr) routeKey {
	return routeKey{pe, vsi, netip.PrefixFrom(egress, egress.BitLen())}
}

// expectedRoutes are the VPN routes that plan implies: in the VRF of each
// joined site, the subnet of every site of the same VPC that is joined at
// another PE, of the preferred one of two; and in each VSI a pseudowire to every other PE that has one of
// the same VPC. The value is that PE's loopback. A PE that no LSP leads to,
// because links have failed, cannot be expected to be reached.
func expectedRoutes(plan *topo.Plan) map[routeKey]netip.Addr {
	want := map[routeKey]netip.Addr{}
	if plan == nil {
		return want
	}
	loopback := map[string]netip.Addr{}
	for _, n := range plan.Nodes {
		loopback[n.Name] = n.Loopback
	}
	for _, v := range plan.VPCs {
		for _, here := range v.VRFs {
			for _, there := range v.Attachments {
				if pe := egress(plan, here.PE, there); pe != "" {
					want[routeKey{here.PE, here.Name, there.Subnet.Masked()}] = loopback[pe]
					for p := range there.More.All() {
						want[routeKey{here.PE, here.Name, p}] = loopback[pe]
					}
					for _, p := range there.Seats {
						want[routeKey{here.PE, here.Name, p}] = loopback[pe]
					}
				}
			}
		}
		for _, a := range v.Attachments {
			if a.VSI != "" && a.Backup != nil && a.Joined {
				want[portTo(a.VSI, strconv.Itoa(a.Index))] = netip.Addr{}
			}
		}
		for _, here := range v.VSIs {
			for _, there := range v.VSIs {
				if there.PE != here.PE && reaches(plan, here.PE, there.PE) {
					want[pseudowire(here.PE, here.Name, loopback[there.PE])] = loopback[there.PE]
				}
			}
		}
	}
	return want
}

// egress is the PE by which packets from another go to an attachment: the
// preferred one of those that it reaches, or that an LSP leads to at all. It is
// "" where none is: the attachment is at that PE itself, or has not joined.
func egress(plan *topo.Plan, from string, to topo.Attachment) string {
	if _, here := to.At(from); here || !to.Joined {
		return ""
	}
	for _, leads := range []func(*topo.Plan, string, string) bool{(*topo.Plan).Reaches, reaches} {
		for _, k := range to.Circuits() {
			if leads(plan, from, k.PE) {
				return k.PE
			}
		}
	}
	return ""
}

// reaches reports whether an LSP leads from one PE to another.
func reaches(plan *topo.Plan, from, to string) bool {
	lsp, ok := plan.LSP(to)
	if !ok {
		return false
	}
	_, ok = lsp.Hop(from)
	return ok
}

// unsureRoutes says which routes of a plan may be there or not, as something is
// lost between the PE and the egress, or one of them is down: sooner or later
// BGP's hold timer takes them away. Nil: none.
func unsureRoutes(plan *topo.Plan, down map[string]bool) func(k routeKey, egress netip.Addr) bool {
	if len(down) == 0 && !slices.ContainsFunc(plan.Links, func(l topo.Link) bool { return l.Lost }) {
		return nil
	}
	cut, names := apart(plan), map[netip.Addr]string{}
	for _, n := range plan.OfKind(topo.KindPE) {
		names[n.Loopback] = n.Name
	}
	apart := map[[2]string]bool{} // asked before: thousands of prefixes have few PEs
	return func(k routeKey, egress netip.Addr) bool {
		name := names[egress]
		if cut[k.PE] || down[k.PE] || name == "" || down[name] {
			return cut[k.PE] || down[k.PE] || down[name]
		}
		pair := [2]string{k.PE, name}
		if _, asked := apart[pair]; !asked {
			apart[pair] = !plan.Reaches(k.PE, name)
		}
		return apart[pair]
	}
}

// routeTable is what the PEs' kernels have acknowledged, as the speakers
// report it.
type routeTable struct {
	mu      sync.Mutex
	have    map[routeKey]netip.Addr
	goal    map[routeKey]netip.Addr // what a wait is for, or was
	missing int                     // of goal, in have; and those of have that are not in goal
	extra   int
	wires   map[routeKey]Pseudowire
	ports   map[routeKey][]string // PEs that forward for a site at two
	failed  map[string]string     // what was refused: its place as text -> why
	flows   map[string]string     // reserved flows of pseudowires that were refused, likewise
	wanted  map[string]bool       // those of the plan that is being applied, or was last
	record  *Timeline             // of the Apply that is running, if any
	// unsure are routes that nobody waits for, of the same plan; nil: none.
	unsure  func(k routeKey, egress netip.Addr) bool
	changed chan struct{} // has a token when something changed since the last look
}

func newRouteTable() *routeTable {
	return &routeTable{have: map[routeKey]netip.Addr{}, wires: map[routeKey]Pseudowire{}, ports: map[routeKey][]string{}, failed: map[string]string{}, flows: map[string]string{}, changed: make(chan struct{}, 1)}
}

// observe takes what became of routes and pseudowires; other events only mark
// the time line.
func (t *routeTable) observe(e event.Event) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.record != nil {
		t.record.note(e)
	}
	switch e.Kind {
	case "route.programmed", "route.removed":
		t.note(e)
	case "pw.up", "pw.down":
		t.notePseudowire(e)
	case "port.opened", "port.closed":
		t.notePort(e)
	case "route.failed":
		t.failed[e.Node+" "+e.Attr["vrf"]+" "+e.Attr["prefix"]] = e.Attr["error"]
	case "pw.failed":
		t.failed[e.Node+" "+e.Attr["vsi"]+" pseudowire to "+e.Attr["egress"]] = e.Attr["error"]
	case "flow.failed":
		t.flows[flowPlace(e.Node, e.Attr["vsi"], e.Attr["flow"])] = e.Attr["error"]
	case "flow.up", "flow.down":
		delete(t.flows, flowPlace(e.Node, e.Attr["vsi"], e.Attr["flow"]))
	default:
		return
	}
	t.poke()
}

// flowPlace is the place of a reserved flow, as text.
func flowPlace(node, vsi, flow string) string { return node + " " + vsi + " reservation " + flow }

// want takes the reserved flows that speakers are told, and which routes nobody
// waits for.
func (t *routeTable) want(configs map[string]bgp.Config, unsure func(routeKey, netip.Addr) bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.wanted, t.unsure = map[string]bool{}, unsure
	t.aim(t.goal) // what was counted before was by other words
	for node, cfg := range configs {
		for _, v := range cfg.VSIs {
			for _, f := range v.Flows {
				t.wanted[flowPlace(node, v.Name, f.Name)] = true
			}
		}
	}
}

// note records one event about routes. The caller holds t.mu.
func (t *routeTable) note(e event.Event) {
	run, err := bgp.Prefixes(e)
	if err != nil {
		return
	}
	egress, _ := netip.ParseAddr(e.Attr["egress"])
	for prefix := range run.All() {
		key := routeKey{e.Node, e.Attr["vrf"], prefix}
		if len(t.failed) > 0 {
			delete(t.failed, key.String())
		}
		if e.Kind == "route.removed" {
			t.drop(key)
		} else {
			t.put(key, egress)
		}
	}
}

// notePseudowire records what became of a pseudowire. The caller holds t.mu.
func (t *routeTable) notePseudowire(e event.Event) {
	egress, err := netip.ParseAddr(e.Attr["egress"])
	if err != nil {
		return
	}
	key := pseudowire(e.Node, e.Attr["vsi"], egress)
	delete(t.failed, e.Node+" "+e.Attr["vsi"]+" pseudowire to "+e.Attr["egress"])
	if e.Kind == "pw.down" {
		t.drop(key)
		delete(t.wires, key)
	} else {
		t.put(key, egress)
		t.wires[key] = Pseudowire{Egress: egress, VE: e.Attr["ve"], Dev: e.Attr["dev"], In: e.Attr["in"], Out: e.Attr["out"]}
	}
}

// notePort records which PE forwards for a site of a VPLS that has two. The
// caller holds t.mu.
func (t *routeTable) notePort(e event.Event) {
	key := portTo(e.Attr["vsi"], e.Attr["site"])
	t.ports[key] = slices.DeleteFunc(t.ports[key], func(pe string) bool { return pe == e.Node })
	if e.Kind == "port.opened" {
		t.ports[key] = append(t.ports[key], e.Node)
	}
	t.countPort(key)
}

// countPort has a site count as reached while somebody forwards for it,
// whoever: that is not the plan's to say. The caller holds t.mu.
func (t *routeTable) countPort(key routeKey) {
	if len(t.ports[key]) > 0 {
		t.put(key, netip.Addr{})
	} else {
		t.drop(key)
	}
}

// portTo is the place of the port by which a VPLS forwards for a site at two
// PEs, at either of them.
func portTo(vsi, site string) routeKey { return routeKey{VRF: vsi + " to site " + site} }

// forget drops what a PE reported: its speaker is gone, and the next one
// reports afresh.
func (t *routeTable) forget(pe string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for k := range t.have {
		if k.PE == pe {
			t.drop(k)
			delete(t.wires, k)
		}
	}
	for key, open := range t.ports {
		t.ports[key] = slices.DeleteFunc(open, func(at string) bool { return at == pe })
		t.countPort(key)
	}
	maps.DeleteFunc(t.flows, func(place, _ string) bool { return strings.HasPrefix(place, pe+" ") })
	t.poke()
}

func (t *routeTable) reset() {
	t.mu.Lock()
	defer t.mu.Unlock()
	clear(t.have)
	clear(t.ports)
	t.aim(t.goal)
	clear(t.wires)
	clear(t.failed)
	clear(t.flows)
}

// refusals says which routes a kernel refused, for the error of a wait.
func (t *routeTable) refusals() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, k := range keys(t.failed) {
		return fmt.Sprintf("; %d were refused, first %s: %s", len(t.failed), k, t.failed[k])
	}
	return ""
}

// recordTo has the events of a running Apply noted in tl; nil ends it.
func (t *routeTable) recordTo(tl *Timeline) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.record = tl
}

func (t *routeTable) poke() {
	select {
	case t.changed <- struct{}{}:
	default:
	}
}

// count is how many VPN routes are programmed now.
func (t *routeTable) count() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.have)
}

// aim has the table count from now on what it lacks of want, and what it has
// beside it: a lab may have ten thousand prefixes at each PE, and would compare
// them all with each event. The caller holds t.mu.
func (t *routeTable) aim(want map[routeKey]netip.Addr) {
	t.goal, t.missing, t.extra = want, 0, 0
	for k, egress := range want {
		if t.isUnsure(k, egress) {
			continue
		}
		if got, ok := t.have[k]; !ok || !leads(got, egress) {
			t.missing++
		}
	}
	for k, egress := range t.have {
		if _, ok := want[k]; !ok && !t.isUnsure(k, egress) {
			t.extra++
		}
	}
}

// isUnsure says whether nobody waits for a route. The caller holds t.mu.
func (t *routeTable) isUnsure(k routeKey, egress netip.Addr) bool {
	return t.unsure != nil && t.unsure(k, egress)
}

// leads says whether a route to got is one to egress, as far as both are known.
func leads(got, egress netip.Addr) bool {
	return !got.IsValid() || !egress.IsValid() || got == egress
}

// put and drop keep count. The caller holds t.mu.
func (t *routeTable) put(k routeKey, egress netip.Addr) {
	t.drop(k)
	t.have[k] = egress
	switch want, wanted := t.goal[k]; {
	case wanted && !t.isUnsure(k, want) && leads(egress, want):
		t.missing--
	case !wanted && !t.isUnsure(k, egress):
		t.extra++
	}
}

func (t *routeTable) drop(k routeKey) {
	got, there := t.have[k]
	if !there {
		return
	}
	delete(t.have, k)
	switch want, wanted := t.goal[k]; {
	case wanted && !t.isUnsure(k, want) && leads(got, want):
		t.missing++
	case !wanted && !t.isUnsure(k, got):
		t.extra--
	}
}

// open is how many routes are missing and left over against what aim was told.
func (t *routeTable) open() (missing, extra int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.missing, t.extra
}

// diff is what is missing and what is left over against want.
func (t *routeTable) diff(want map[routeKey]netip.Addr) (missing, extra []routeKey) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for k, egress := range want {
		if t.isUnsure(k, egress) {
			continue
		}
		if got, ok := t.have[k]; !ok || !leads(got, egress) {
			missing = append(missing, k)
		}
	}
	for k, egress := range t.have {
		if _, ok := want[k]; !ok && !t.isUnsure(k, egress) {
			extra = append(extra, k)
		}
	}
	return missing, extra
}

// broken says which reserved flows that are wanted were refused, the first of
// them, and why; "" when none was. The speakers try again.
func (t *routeTable) broken() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var refused []string
	for _, k := range keys(t.flows) {
		if t.wanted[k] {
			refused = append(refused, k)
		}
	}
	if len(refused) == 0 {
		return ""
	}
	return fmt.Sprintf("; %d reserved flow(s) not in force, first %s: %s", len(refused), refused[0], t.flows[refused[0]])
}

// wait returns when the kernels hold exactly want (onlyRemoved: nothing but
// want) and what is reserved on it. progress, which may be nil, is told how many routes are still open.
// When ctx ends first the error names what is missing where. Only one wait may
// be under way, which the lab's turn sees to.
func (t *routeTable) wait(ctx context.Context, want map[routeKey]netip.Addr, onlyRemoved bool, progress func(open int)) error {
	t.mu.Lock()
	t.aim(want)
	t.mu.Unlock()
	for {
		missing, extra := t.open()
		broken := t.broken()
		if onlyRemoved {
			missing, broken = 0, ""
		}
		if missing+extra == 0 && broken == "" {
			return nil
		}
		if progress != nil {
			progress(missing + extra)
		}
		select {
		case <-t.changed:
		case <-ctx.Done():
			lacks, left := t.diff(want)
			if onlyRemoved {
				lacks = nil
			}
			return fmt.Errorf("%w: %s%s%s", context.Cause(ctx), describeRoutes(lacks, left), t.refusals(), broken)
		}
	}
}

// describeRoutes says where routes are missing or left over, PE by PE, in
// words short enough for an error.
func describeRoutes(missing, extra []routeKey) string {
	var parts []string
	for _, g := range []struct {
		what string
		keys []routeKey
	}{{"not programmed", missing}, {"not removed", extra}} {
		if len(g.keys) > 0 {
			parts = append(parts, fmt.Sprintf("%d VPN route(s) %s: %s", len(g.keys), g.what, listRoutes(g.keys)))
		}
	}
	return strings.Join(parts, "; ")
}

const routesShown = 6 // of each kind in an error

func listRoutes(keys []routeKey) string {
	sort.Slice(keys, func(i, j int) bool { return keys[i].String() < keys[j].String() })
	var b strings.Builder
	for i, k := range keys {
		if i == routesShown {
			fmt.Fprintf(&b, " and %d more", len(keys)-i)
			break
		}
		if i > 0 {
			b.WriteString(", ")
		}
		if k.PE == "" {
			fmt.Fprintf(&b, "who forwards from %s", k.VRF)
			continue
		}
		fmt.Fprintf(&b, "%s in %s at %s", k.Prefix, k.VRF, k.PE)
	}
	return b.String()
}

// differ is what is missing and what is left over against want, whatever nobody
// waits for.
func (t *routeTable) differ(want map[routeKey]netip.Addr) (missing, extra []routeKey) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for k, egress := range want {
		if got, ok := t.have[k]; !ok || !leads(got, egress) {
			missing = append(missing, k)
		}
	}
	for k := range t.have {
		if _, ok := want[k]; !ok {
			extra = append(extra, k)
		}
	}
	return missing, extra
}
