package lab

import (
	"context"
	"io"
	"net/netip"
	"slices"
	"strings"

	"github.com/jedib0t/go-pretty/v6/table"

	"github.com/vpclab/vpclab/emu/fabric"
	"github.com/vpclab/vpclab/topo"
)

// VPCInfo is a private cloud as the lab was told to make it.
type VPCInfo struct {
	VPC     string    `json:"vpc"`
	Number  int       `json:"number"` // the v of addresses, labels, RDs and RTs
	Service string    `json:"service"`
	Subnet  string    `json:"subnet,omitempty"` // of a vpls
	Sites   []VPCSite `json:"sites"`
	// Provider marks the network that joins the hypervisor hosts.
	Provider bool `json:"provider,omitempty"`
}

// VPCSite is a VPC at a site.
type VPCSite struct {
	Site     string `json:"site"`
	PE       string `json:"pe"`
	BackupPE string `json:"backup_pe,omitempty"`
	Subnet   string `json:"subnet"`
	Joined   bool   `json:"joined"`
	Machines int    `json:"machines"`
}

// pes are the site's PEs, the preferred one first.
func (s VPCSite) pes() string {
	if s.BackupPE == "" {
		return s.PE
	}
	return s.PE + ", then " + s.BackupPE
}

// VSIInfo is a VPLS instance of a PE (RFC 4761).
type VSIInfo struct {
	Node        string       `json:"node"`
	VSI         string       `json:"vsi"`
	VPC         string       `json:"vpc"`
	RD          string       `json:"rd"`
	VEID        int          `json:"ve_id"`
	LabelBase   uint32       `json:"label_base"`
	Sites       []string     `json:"sites"`
	Pseudowires []Pseudowire `json:"pseudowires"`
}

// Pseudowire is one as the PE's speaker programmed it.
type Pseudowire struct {
	Egress netip.Addr `json:"egress"`
	VE     string     `json:"ve"`
	Dev    string     `json:"dev"`
	In     string     `json:"in"`  // label that it is received by
	Out    string     `json:"out"` // labels that are pushed, outermost first
}

// MachineInfo is a machine or VM.
type MachineInfo struct {
	Name string `json:"name"`
	VPC  string `json:"vpc"`
	Site string `json:"site"`
	Host string `json:"host,omitempty"`
	Addr string `json:"addr"`
	MAC  string `json:"mac"`
	// Guest is what runs in it, if anything.
	Guest *GuestInfo `json:"guest,omitempty"`
}

// GuestInfo is a guest as it says itself.
type GuestInfo struct {
	Kind     string `json:"kind"` // process | qemu
	Workload string `json:"workload"`
	Memory   string `json:"memory"`
	Disk     string `json:"disk,omitempty"`
	Port     int    `json:"port"`
	State    string `json:"state"`             // running | paused | migrating | not reached
	RunsOn   string `json:"runs_on,omitempty"` // the host whose memory it works on
	Steps    uint64 `json:"steps"`
	Acked    uint64 `json:"acked"` // transactions that clients were told are done
	Fault    string `json:"fault,omitempty"`
	Console  string `json:"console,omitempty"` // the file in the lab's kernel that a QEMU guest's serial line goes to
}

// MACInfo is a learned address of a VSI's bridge.
type MACInfo struct {
	Node   string `json:"node"`
	Bridge string `json:"bridge"`
	MAC    string `json:"mac"`
	Port   string `json:"port"`
	Owner  string `json:"owner,omitempty"` // the machine that has it, by the plan
}

// ReservationInfo is bandwidth set aside, one direction.
type ReservationInfo struct {
	Name  string   `json:"name"`
	VPC   string   `json:"vpc"`
	From  string   `json:"from"`
	To    string   `json:"to"`
	Rate  string   `json:"rate"`
	Path  []string `json:"path,omitempty"`
	Push  string   `json:"push,omitempty"`
	Unmet string   `json:"unmet,omitempty"`
}

func (i *inspection) vpcs(context.Context) error {
	if i.plan == nil {
		return nil
	}
	for _, v := range i.plan.VPCs {
		info := VPCInfo{VPC: v.Name, Number: v.Index, Service: v.Service, Provider: v.Provider}
		if v.Subnet.IsValid() {
			info.Subnet = v.Subnet.String()
		}
		for _, a := range v.Attachments {
			info.Sites = append(info.Sites, VPCSite{Site: a.Site, PE: a.PE, BackupPE: secondPE(a), Subnet: a.Subnet.String(), Joined: a.Joined, Machines: len(a.Machines)})
		}
		i.report.VPCs = append(i.report.VPCs, info)
	}
	return nil
}

// secondPE is the other PE of a site that has two, or "".
func secondPE(a topo.Attachment) string {
	if a.Backup == nil {
		return ""
	}
	return a.Backup.PE
}

func (i *inspection) vsis(context.Context) error {
	if i.plan == nil {
		return nil
	}
	for _, v := range i.plan.VPCs {
		for _, s := range v.VSIs {
			if !i.req.wantsNode(s.PE) {
				continue
			}
			info := VSIInfo{Node: s.PE, VSI: s.Name, VPC: v.Name, RD: s.RD, VEID: s.VEID, LabelBase: s.LabelBase,
				Pseudowires: i.lab.routes.pseudowires(s.PE, s.Name)}
			for _, a := range v.Attachments {
				if _, here := a.At(s.PE); here && a.Joined {
					info.Sites = append(info.Sites, a.Site)
				}
			}
			i.report.VSIs = append(i.report.VSIs, info)
		}
	}
	return nil
}

// pseudowires lists those of a VSI that are up, by egress.
func (t *routeTable) pseudowires(pe, vsi string) (all []Pseudowire) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for k, w := range t.wires {
		if k.PE == pe && k.VRF == vsi {
			all = append(all, w)
		}
	}
	slices.SortFunc(all, func(a, b Pseudowire) int { return a.Egress.Compare(b.Egress) })
	return all
}

func (i *inspection) machines(ctx context.Context) error {
	if i.plan == nil {
		return nil
	}
	macs := machineMACs(i.plan)
	for _, n := range i.plan.Machines() {
		info := MachineInfo{Name: n.Name, VPC: n.VPC, Site: n.Site, Host: n.Host, Addr: n.Addr.String(), MAC: macs[n.Name].String()}
		if n.Guest != nil {
			info.Guest = i.guest(ctx, n)
		}
		i.report.Machines = append(i.report.Machines, info)
	}
	return nil
}

// guest asks a guest how it is.
func (i *inspection) guest(ctx context.Context, n topo.Node) *GuestInfo {
	g := &GuestInfo{Kind: n.Guest.Kind, Console: i.lab.consolePath(n), Workload: n.Guest.Workload, Memory: n.Guest.Memory.String(), Port: n.Guest.Port, State: "running"}
	if n.Guest.Disk > 0 {
		g.Disk = n.Guest.Disk.String()
	}
	s, err := i.lab.hypers.status(ctx, n.Name)
	switch {
	case err != nil:
		g.State, g.Fault = "not reached", err.Error()
		return g
	case i.lab.migrationOf(n.Name) != nil:
		g.State = "migrating"
	case !s.Running:
		g.State = "paused"
	}
	g.RunsOn, g.Steps, g.Acked, g.Fault = hostOf(s), s.Steps, s.Acked, s.Fault
	return g
}

// machineMACs are the addresses of the machines' interfaces.
func machineMACs(plan *topo.Plan) map[string]topo.MAC {
	macs := map[string]topo.MAC{}
	for _, l := range plan.Links {
		if l.VPC != "" && !l.AC {
			macs[l.A.Node] = l.A.MAC
		}
	}
	return macs
}

// macs reads what the bridges of the VSIs have learned.
func (i *inspection) macs(ctx context.Context) error {
	if i.plan == nil {
		return nil
	}
	macs := machineMACs(i.plan)
	for _, v := range i.plan.VPCs {
		owner := map[topo.MAC]string{}
		for _, a := range v.Attachments {
			for _, m := range a.Machines {
				owner[macs[m]] = m
			}
		}
		for _, s := range v.VSIs {
			if !i.req.wantsNode(s.PE) {
				continue
			}
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			learned, err := i.fabric.FDB(fabric.BridgeAt{Node: s.PE, Bridge: s.Name})
			if err != nil {
				return err
			}
			for _, e := range learned {
				i.report.MACs = append(i.report.MACs, MACInfo{Node: s.PE, Bridge: s.Name, MAC: e.MAC.String(), Port: e.Port, Owner: owner[e.MAC]})
			}
		}
	}
	return nil
}

func (i *inspection) reservations(context.Context) error {
	if i.plan == nil {
		return nil
	}
	for _, r := range i.plan.Reservations {
		info := ReservationInfo{Name: r.Name, VPC: r.VPC, From: r.Between[0], To: r.Between[1], Rate: r.Rate.String(), Unmet: r.Unmet}
		for n, d := range r.Directions {
			info.From, info.To = r.Between[n], r.Between[1-n]
			info.Path, info.Push = d.Path, stack(append(slices.Clone(d.Stack), d.Label))
			i.report.Reservations = append(i.report.Reservations, info)
		}
		if len(r.Directions) == 0 {
			i.report.Reservations = append(i.report.Reservations, info)
		}
	}
	return nil
}

// reservedUse says which reservation or explicit path a label is for.
func (i *inspection) reservedUse(node string, label uint32) string {
	for _, a := range i.plan.Adjacencies {
		if a.Node == node && a.Label == label {
			return "explicit path or bypass, on to " + a.Next
		}
	}
	for _, r := range i.plan.Reservations {
		for _, d := range r.Directions {
			if d.Label == label && (d.To == node || d.From == node) {
				return "reservation " + r.Name
			}
		}
	}
	return ""
}

func (r *Report) vpcTable(w io.Writer) {
	t := Table("VPCs", "VPC", "number", "service", "site", "PE", "subnet", "joined", "machines")
	for _, v := range r.VPCs {
		service := v.Service
		if v.Provider {
			service += " of the hosts"
		}
		for _, s := range v.Sites {
			joined := "yes"
			if !s.Joined {
				joined = "no"
			}
			t.AppendRow(table.Row{v.VPC, v.Number, service, s.Site, s.pes(), s.Subnet, joined, s.Machines})
		}
	}
	show(w, t)
}

func (r *Report) vsiTable(w io.Writer) {
	t := Table("VPLS instances and pseudowires", "PE", "VSI", "RD", "VE", "sites", "to VE", "to PE", "device", "receives", "pushes")
	for _, v := range r.VSIs {
		t.AppendRow(table.Row{v.Node, v.VSI, v.RD, v.VEID, strings.Join(v.Sites, " ")})
		for _, p := range v.Pseudowires {
			t.AppendRow(table.Row{"", "", "", "", "", p.VE, p.Egress, p.Dev, p.In, p.Out})
		}
	}
	show(w, t)
}

func (r *Report) machineTable(w io.Writer) {
	t := Table("Machines", "machine", "VPC", "site", "host", "address", "MAC")
	guests := Table("Guests", "VM", "kind", "host", "memory", "disk", "workload", "port", "state", "steps", "done for clients", "fault")
	any := false
	for _, m := range r.Machines {
		t.AppendRow(table.Row{m.Name, m.VPC, m.Site, m.Host, m.Addr, m.MAC})
		if g := m.Guest; g != nil {
			any = true
			guests.AppendRow(table.Row{m.Name, g.Kind, g.RunsOn, g.Memory, g.Disk, g.Workload, g.Port, g.State, g.Steps, g.Acked, g.Fault})
		}
	}
	show(w, t)
	if any {
		show(w, guests)
	}
}

func (r *Report) macTable(w io.Writer) {
	t := Table("Learned MACs", "PE", "bridge", "MAC", "port", "machine")
	for _, m := range r.MACs {
		t.AppendRow(table.Row{m.Node, m.Bridge, m.MAC, m.Port, m.Owner})
	}
	show(w, t)
}

func (r *Report) reservationTable(w io.Writer) {
	t := Table("Reservations", "name", "VPC", "from", "to", "rate", "path", "pushes")
	for _, x := range r.Reservations {
		path := strings.Join(x.Path, " ")
		if x.Unmet != "" {
			path = "none: " + x.Unmet
		}
		t.AppendRow(table.Row{x.Name, x.VPC, x.From, x.To, x.Rate, path, x.Push})
	}
	show(w, t)
}
