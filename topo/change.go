package topo

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// What an operation names, found or refused.

func (b *builder) findVPC(name string) (*VPCPlan, *refusal) {
	v, ok := b.plan.VPC(name)
	if ok && v.Provider {
		return nil, refuse("vpc", fmt.Sprintf("%s is the provider's own network, which joins the hypervisor hosts; expected a customer's VPC", name), "")
	}
	if ok {
		return v, nil
	}
	names := b.plan.vpcNames()
	return nil, refuse("vpc", fmt.Sprintf("there is no VPC %q; expected %s", name, oneOf(names)), suggest(name, names))
}

func (b *builder) findSite(at, name string) (SitePlan, *refusal) {
	if s, ok := b.plan.Site(name); ok {
		return s, nil
	}
	var names []string
	for _, s := range b.plan.Sites {
		names = append(names, s.Name)
	}
	return SitePlan{}, refuse(at, fmt.Sprintf("there is no site %q; expected %s", name, oneOf(names)), suggest(name, names))
}

// findPlace is where a machine goes: the node of its host, or "" in an
// enterprise.
func (b *builder) findPlace(op Operation) (SitePlan, string, *refusal) {
	if op.Site != "" {
		s, err := b.findSite("site", op.Site)
		if err == nil && s.Kind != "enterprise" {
			err = refuse("site", fmt.Sprintf("site %s is a cloud, and its machines run on hosts; expected host", s.Name), fmt.Sprintf("such as host: %s/1", s.Name))
		}
		return s, "", err
	}
	name, h, _ := splitHost(op.Host)
	var hosts []string
	for _, s := range b.plan.Sites {
		for i := range s.Hosts {
			hosts = append(hosts, fmt.Sprintf("%s/%d", s.Name, i+1))
		}
	}
	s, known := b.plan.Site(name)
	switch {
	case !known:
		return s, "", refuse("host", fmt.Sprintf("there is no site %q; expected %s", name, oneOf(hosts)), suggest(op.Host, hosts))
	case s.Kind != "cloud":
		return s, "", refuse("host", fmt.Sprintf("site %s is no cloud and has no hosts; expected %s", name, oneOf(hosts)), "")
	case h > len(s.Hosts):
		return s, "", refuse("host", fmt.Sprintf("site %s has %s; expected %s", name, plural(len(s.Hosts), "host"), oneOf(hosts)), "")
	}
	return s, s.Hosts[h-1], nil
}

func (b *builder) findMachine(name string) (*Node, *refusal) {
	if n := b.index[name]; n != nil && n.Kind == KindMachine {
		return n, nil
	}
	var names []string
	for _, n := range b.nodes {
		if n.Kind == KindMachine {
			names = append(names, n.Name)
		}
	}
	return nil, refuse("vm", fmt.Sprintf("there is no VM or machine %q; expected %s", name, oneOf(names)), suggest(name, names))
}

// free makes sure that a node of that name can come.
func (b *builder) free(at, name, what string) *refusal {
	switch n := b.index[name]; {
	case n == nil && len(b.nodes) >= maxNodes:
		return refuse(at, fmt.Sprintf("the lab has %d nodes, which is all that it may have", len(b.nodes)), "")
	case n == nil:
		return nil
	case n.VPC != "":
		return refuse(at, fmt.Sprintf("%s would be named %s, which is the name of a %s of VPC %s at site %s", what, name, n.Kind, n.VPC, n.Site), "")
	default:
		return refuse(at, fmt.Sprintf("%s would be named %s, which is the name of a %s", what, name, n.Kind), "")
	}
}

func (b *builder) create(op Operation) *refusal {
	if _, there := b.plan.VPC(op.VPC); there {
		return refuse("vpc", fmt.Sprintf("VPC %s is there already", op.VPC), "choose another name")
	}
	if n := len(b.plan.vpcNames()); n >= maxVPCs {
		return refuse("vpc", fmt.Sprintf("there are %d VPCs, which is all that a lab may have", n), "")
	}
	v := VPCPlan{Name: op.VPC, Service: op.Service, MTU: defaultMTU}
	switch op.Service {
	case ServiceL3VPN:
		if op.Subnet != nil {
			return refuse("subnet", "only a VPC with service vpls has subnet, and this one is l3vpn", "")
		}
	case ServiceVPLS:
		v.Ageing = defaultAgeing.Std()
		if need := frameOf(v.MTU, 2); need > b.plan.CoreMTU {
			return refuse("service", tooFewBytes(op.VPC, v.MTU, b.plan.CoreMTU), fmt.Sprintf("the backbone's mtu has to be %d or more", need))
		}
	default:
		return refuse("service", fmt.Sprintf("%q is not known; expected one of l3vpn, vpls", op.Service), suggest(op.Service, []string{ServiceL3VPN, ServiceVPLS}))
	}
	if op.Subnet != nil {
		if r, bad := outside(*op.Subnet); bad {
			return refuse("subnet", r, "")
		}
		v.Subnet = *op.Subnet
	}
	vpc := b.vpc(v)
	for i, name := range op.Sites {
		at := fmt.Sprint("sites.", i)
		s, err := b.findSite(at, name)
		if err != nil {
			return err
		}
		if slices.Contains(op.Sites[:i], name) {
			return refuse(at, fmt.Sprintf("site %q is here twice", name), "")
		}
		if _, err := b.come(vpc, s, at); err != nil {
			return err
		}
	}
	return nil
}

// come makes sure that a VPC is at a site and has joined it; at is the key that
// asks for it.
func (b *builder) come(v *VPCPlan, s SitePlan, at string) (*Attachment, *refusal) {
	i := slices.IndexFunc(v.Attachments, func(a Attachment) bool { return a.Site == s.Name })
	if i < 0 {
		if err := b.mayCome(v, s, at); err != nil {
			return nil, err
		}
		a := b.attach(v, s, b.subnetAt(v, s))
		if err := b.populate(v, a, s); err != nil {
			return nil, refuse(at, err.Error(), "")
		}
		i = len(v.Attachments) - 1
	}
	a := &v.Attachments[i]
	if !a.Joined {
		b.join(v, a)
	}
	return a, nil
}

// subnetAt is the subnet that a VPC gets at a site that it comes to.
func (b *builder) subnetAt(v *VPCPlan, s SitePlan) netip.Prefix {
	if v.Service == ServiceVPLS {
		return v.Subnet
	}
	return defaultLAN(v.Index, s.Index)
}

// mayCome reports what keeps a VPC from coming to a site.
func (b *builder) mayCome(v *VPCPlan, s SitePlan, at string) *refusal {
	if v.Service == ServiceVPLS && b.index[s.PE].Routing == RoutingFRR {
		return refuse(at, noVPLS(s.Name, s.PE), "")
	}
	subnet := b.subnetAt(v, s)
	for _, o := range v.Attachments {
		if v.Service == ServiceL3VPN && o.Subnet.Overlaps(subnet) {
			return refuse(at, fmt.Sprintf("site %s would get the subnet %s, which overlaps %s of site %s", s.Name, subnet, o.Subnet, o.Site), "")
		}
	}
	if room := blockOf(v.Service, v.Index, s.Index, subnet).room(); s.Machines > room {
		return refuse(at, fmt.Sprintf("%s has room for %s, and site %s has %d", subnet, plural(room, "machine"), s.Name, s.Machines), "")
	}
	if err := b.free(at, ceName(v.Name, s.Name), fmt.Sprintf("the CE of VPC %s at site %s", v.Name, s.Name)); err != nil {
		return err
	}
	for m := range s.Machines {
		if err := b.free(at, machineName(v.Name, s.Name, m+1), fmt.Sprintf("machine %d of VPC %s at site %s", m+1, v.Name, s.Name)); err != nil {
			return err
		}
	}
	return nil
}

func (b *builder) delete(op Operation) *refusal {
	v, err := b.findVPC(op.VPC)
	if err != nil {
		return err
	}
	p := b.plan
	b.nodes = slices.DeleteFunc(b.nodes, func(n *Node) bool { return n.VPC == v.Name })
	for _, n := range b.nodes {
		n.Bridges = slices.DeleteFunc(n.Bridges, func(br Bridge) bool { return n.Kind == KindHost && br.Name == hostBridge(v.Name) })
	}
	p.Links = slices.DeleteFunc(p.Links, func(l Link) bool { return l.VPC == op.VPC })
	p.VPCs = slices.DeleteFunc(p.VPCs, func(o VPCPlan) bool { return o.Name == op.VPC })
	return nil
}

func (b *builder) joinSite(op Operation) *refusal {
	v, err := b.findVPC(op.VPC)
	if err != nil {
		return err
	}
	s, err := b.findSite("site", op.Site)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(v.Attachments, func(a Attachment) bool { return a.Site == s.Name && a.Joined }) {
		return refuse("site", fmt.Sprintf("site %s is in VPC %s already", s.Name, v.Name), "")
	}
	_, err = b.come(v, s, "site")
	return err
}

func (b *builder) leave(op Operation) *refusal {
	v, err := b.findVPC(op.VPC)
	if err != nil {
		return err
	}
	var joined []string
	for i := range v.Attachments {
		a := &v.Attachments[i]
		if a.Joined && a.Site == op.Site {
			if vms := b.seatsAt(v.Name, op.Site); len(vms) > 0 {
				return refuse("site", fmt.Sprintf("%s has a seat of %s there, which would be cut off from its other", op.Site, strings.Join(vms, ", ")), "remove it first")
			}
			a.Joined = false
			b.index[a.CE].Routes = nil
			b.plan.Links = slices.DeleteFunc(b.plan.Links, func(l Link) bool { return l.AC && l.VPC == v.Name && l.Site == op.Site })
			return nil
		}
		if a.Joined {
			joined = append(joined, a.Site)
		}
	}
	return refuse("site", fmt.Sprintf("site %q is not in VPC %s; expected %s", op.Site, v.Name, oneOf(joined)), suggest(op.Site, joined))
}

func (b *builder) addMachine(op Operation) *refusal {
	v, err := b.findVPC(op.VPC)
	if err != nil {
		return err
	}
	s, host, err := b.findPlace(op)
	if err != nil {
		return err
	}
	if op.VM != "" {
		if err := b.free("vm", op.VM, "the VM"); err != nil {
			return err
		}
	}
	return b.place(v, s, newcomer{name: op.VM, host: host}, op.where())
}

// where is the key that says where a machine goes.
func (op Operation) where() string {
	if op.Host == "" {
		return "site"
	}
	return "host"
}

// place puts a machine into a VPC at a site, which joins if it has not.
func (b *builder) place(v *VPCPlan, s SitePlan, w newcomer, at string) *refusal {
	a, err := b.come(v, s, at)
	if err != nil {
		return err
	}
	if w.name == "" {
		w.number = b.given[v.Name].number(v, a, w)
		w.name = machineName(v.Name, s.Name, w.number)
		for n := 2; b.index[w.name] != nil; n++ {
			w.name = fmt.Sprintf("%s-%d", machineName(v.Name, s.Name, w.number), n)
		}
	}
	if err := b.machine(v, a, w); err != nil {
		return refuse(at, fmt.Sprintf("VPC %s at site %s: %s", v.Name, s.Name, err), "")
	}
	return nil
}

func (b *builder) removeMachine(op Operation) *refusal {
	n, err := b.findMachine(op.VM)
	if err == nil {
		b.unprotect(n) // its standby goes with it
		b.unplug(n)
	}
	return err
}

// unplug takes a machine out of the plan and tells what it had.
func (b *builder) unplug(n *Node) (mac MAC) {
	b.nodes = slices.DeleteFunc(b.nodes, func(o *Node) bool { return o == n })
	delete(b.index, n.Name)
	b.plan.Links = slices.DeleteFunc(b.plan.Links, func(l Link) bool {
		if l.A.Node != n.Name {
			return false
		}
		mac = l.A.MAC
		delete(b.ifs[l.B.Node], l.B.Ifname)
		return true
	})
	v, _ := b.plan.VPC(n.VPC)
	for i := range v.Attachments {
		a := &v.Attachments[i]
		a.Machines = slices.DeleteFunc(a.Machines, func(name string) bool { return name == n.Name })
	}
	b.given[n.VPC].give(b.site(n.Site).Index, n.Number, n.Addr, mac)
	return mac
}

func (b *builder) replicate(op Operation) *refusal {
	n, err := b.findMachine(op.VM)
	if err != nil {
		return err
	}
	if n.Host == "" {
		return refuse("vm", fmt.Sprintf("%s is a machine of an enterprise; expected a VM", n.Name), "")
	}
	s, host, err := b.findPlace(op)
	if err != nil {
		return err
	}
	name := op.Name
	for i := 1; name == "" || op.Name == "" && b.index[name] != nil; i++ {
		suffix := fmt.Sprint("-r", i)
		name = strings.TrimRight(n.Name[:min(len(n.Name), maxRouter-len(suffix))], "-") + suffix
	}
	if err := b.free("name", name, "the replica"); err != nil {
		return err
	}
	v, _ := b.plan.VPC(n.VPC)
	return b.place(v, s, newcomer{name: name, host: host, guest: n.Guest.like(b.plan.Seed, name)}, "host")
}

// move takes a machine elsewhere. Within a site it keeps all it has, as the LAN
// is the same; so it does within a vpls, which is one LAN. To another site of an
// l3vpn it comes as a new machine with its old name.
func (b *builder) move(op Operation) *refusal {
	n, err := b.findMachine(op.VM)
	if err != nil {
		return err
	}
	s, host, err := b.findPlace(op)
	if err != nil {
		return err
	}
	if err := isProtected(n, "moved", "switch over to the standby in place of that"); err != nil {
		return err
	}
	if n.Guest != nil && host == "" {
		return refuse("site", fmt.Sprintf("%s is a guest of a hypervisor, and site %s is an enterprise, which has none; expected host", n.Name, s.Name), "")
	}
	if n.Site == s.Name && n.Host == host {
		return refuse(op.where(), fmt.Sprintf("%s is there already", n.Name), "")
	}
	v, _ := b.plan.VPC(n.VPC)
	if _, err := b.come(v, s, op.where()); err != nil { // before what it has is free for others
		return err
	}
	w := newcomer{name: n.Name, host: host, index: n.Index, guest: n.Guest}
	mac := b.unplug(n)
	if n.Site == s.Name || v.Service == ServiceVPLS {
		w.addr, w.mac = n.Addr, mac
	}
	if n.Site == s.Name {
		w.number = n.Number
	} else if m := numberOf(mac); v.Service == ServiceVPLS && mac == lanMAC(v.Index, s.Index, m) {
		w.number = b.given[v.Name].unlessTaken(s.Index, m) // it is back where it comes from
	}
	return b.place(v, s, w, op.where())
}

func (b *builder) reserve(op Operation) *refusal {
	if slices.ContainsFunc(b.plan.Reservations, func(r ReservationPlan) bool { return r.Name == op.Name }) {
		return refuse("name", fmt.Sprintf("reservation %s is there already", op.Name), "choose another name, or release it first")
	}
	if n := len(b.plan.Reservations); n >= maxReservations {
		return refuse("name", fmt.Sprintf("there are %d reservations, which is all that a lab may have", n), "")
	}
	vpc, err := b.vpcOfEnds(op)
	if err != nil {
		return err
	}
	r := ReservationPlan{Name: op.Name, Index: 1, VPC: vpc, Rate: op.Rate, Between: [2]string(op.Between)}
	if len(op.Path) > 0 {
		r.Asked = op.Path
	}
	for _, o := range b.plan.Reservations {
		if o.Index == r.Index {
			r.Index++
		}
	}
	return b.plan.reserve(r)
}

// vpcOfEnds is the VPC that is named, or that of a machine among the ends.
func (b *builder) vpcOfEnds(op Operation) (string, *refusal) {
	if op.VPC != "" {
		return op.VPC, nil
	}
	for _, end := range op.Between {
		if n := b.index[end]; n != nil && n.Kind == KindMachine {
			return n.VPC, nil
		}
	}
	return "", &refusal{msg: fmt.Sprintf("neither %s nor %s is a machine that would tell the VPC; expected vpc", op.Between[0], op.Between[1]), hint: "add for example `vpc: acme`"}
}

func (b *builder) release(op Operation) *refusal {
	var names []string
	for i, r := range b.plan.Reservations {
		if r.Name == op.Name {
			b.plan.Reservations = slices.Delete(slices.Clone(b.plan.Reservations), i, i+1)
			return nil
		}
		names = append(names, r.Name)
	}
	return refuse("name", fmt.Sprintf("there is no reservation %q; expected %s", op.Name, oneOf(names)), suggest(op.Name, names))
}

// setFailed takes a core link down or up again.
func (b *builder) setFailed(op Operation, failed bool) *refusal {
	var names []string
	for _, n := range b.nodes {
		if n.Loopback.IsValid() {
			names = append(names, n.Name)
		}
	}
	for i, name := range op.Link {
		if !slices.Contains(names, name) {
			return refuse(fmt.Sprint("link.", i), fmt.Sprintf("there is no router %q; expected %s", name, oneOf(names)), suggest(name, names))
		}
	}
	x, y := op.Link[0], op.Link[1]
	for i := range b.plan.Links {
		l := &b.plan.Links[i]
		if !l.Core || !(l.A.Node == x && l.B.Node == y || l.A.Node == y && l.B.Node == x) {
			continue
		}
		if l.Failed == failed {
			return refuse("link", fmt.Sprintf("link %s--%s is %s already", x, y, map[bool]string{true: "down", false: "up"}[failed]), "")
		}
		l.Failed = failed
		return nil
	}
	return refuse("link", fmt.Sprintf("no link joins %s and %s; from %s links lead to %s", x, y, x, strings.Join(b.plan.Neighbors(x), ", ")), "")
}
