package topo

import (
	"fmt"
	"slices"
	"strings"
)

// Reservations are admitted here: each line of the backbone and each circuit
// has so much to give, in each direction, and a reservation is let in only
// where all lines of its way have enough left. Who was let in keeps its way as
// long as that carries; nobody is thrown out for a later one.

// bestEffort is the share of a line that cannot be reserved: routing and
// everybody without a reservation live on it.
const bestEffort = Percent(10)

// maxExplicit is how many links an explicit path may cross: it has one label a
// link, and the classifier of a line reaches seven deep into a stack (Linux,
// FLOW_DIS_MPLS_MAX).
const maxExplicit = 7

// NoRoomError refuses a reservation for want of room on a line.
type NoRoomError struct {
	Reservation string
	Asked       Rate
	Link        string   // "p1--p2": from p1 to p2
	Rate        Rate     // of the line in that direction
	Reserved    Rate     // of it by others
	By          []string // those
}

// Room is what of a line can still be reserved.
func (e *NoRoomError) Room() Rate { return reservable(e.Rate) - e.Reserved }

func (e *NoRoomError) Error() string {
	taken := ""
	more := ""
	if e.Reserved > 0 {
		taken = fmt.Sprintf(" and %s are, by %s", e.Reserved, few(e.By))
		more = " more"
	}
	return fmt.Sprintf("link %s: %s, of which %s can be reserved%s; %s%s would be %s too much",
		e.Link, e.Rate, reservable(e.Rate), taken, e.Asked, more, e.Asked-e.Room())
}

// few lists names, the first of very many.
func few(names []string) string {
	if len(names) <= 6 {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s … (%d in all)", strings.Join(names[:6], ", "), len(names))
}

// reservable is what of a line's rate can be reserved.
func reservable(r Rate) Rate { return Rate(float64(r) * float64(100-bestEffort) / 100) }

// refusal is why something asked for cannot be, before it is known whether a
// file or an operation asks.
type refusal struct {
	at        []string // below the reservation or operation: "between", "1"
	msg, hint string
	err       error // what a caller may look for
}

func (r *refusal) Error() string {
	if r.hint == "" {
		return r.msg
	}
	return r.msg + "; " + r.hint
}

func (r *refusal) Unwrap() error { return r.err }

func refuse(at string, msg, hint string) *refusal {
	return &refusal{at: strings.Split(at, "."), msg: msg, hint: hint}
}

// reserve admits r, or says why not and changes nothing.
func (p *Plan) reserve(r ReservationPlan) *refusal {
	if err := p.vet(r); err != nil {
		return err
	}
	at := 0
	for at < len(p.Reservations) && p.Reservations[at].Index < r.Index {
		at++
	}
	q := *p
	q.Reservations = slices.Insert(slices.Clone(p.Reservations), at, r)
	if err := q.settle(false, r.Name)[r.Name]; err != nil {
		return err
	}
	*p = q
	return nil
}

// reservedEnd is one end of a reservation, found.
type reservedEnd struct {
	a       *Attachment
	machine *Node // nil: the whole site
	mac     MAC   // of the machine
}

// ends finds the two ends of r; the error says which there is not.
func (p *Plan) ends(r ReservationPlan) (ends [2]reservedEnd, err *refusal) {
	v, ok := p.VPC(r.VPC)
	if !ok {
		return ends, refuse("vpc", fmt.Sprintf("there is no VPC %q; expected %s", r.VPC, oneOf(p.vpcNames())), suggest(r.VPC, p.vpcNames()))
	}
	for i, name := range r.Between {
		end, found := p.end(v, name)
		if !found {
			names := v.ends()
			return ends, refuse(fmt.Sprint("between.", i), fmt.Sprintf("VPC %s has no machine and no site %q; expected %s", v.Name, name, oneOf(names)), suggest(name, names))
		}
		ends[i] = end
	}
	return ends, nil
}

func (p *Plan) end(v *VPCPlan, name string) (reservedEnd, bool) {
	for i := range v.Attachments {
		a := &v.Attachments[i]
		if slices.Contains(a.Machines, name) {
			n, _ := p.Node(name)
			l := p.LinksOf(name)[0]
			return reservedEnd{a, n, l.A.MAC}, true
		}
	}
	i := slices.IndexFunc(v.Attachments, func(a Attachment) bool { return a.Site == name })
	if i < 0 {
		return reservedEnd{}, false
	}
	return reservedEnd{a: &v.Attachments[i]}, true
}

// ends names all that a reservation of the VPC can be between.
func (v *VPCPlan) ends() []string {
	var names []string
	for _, a := range v.Attachments {
		names = append(append(names, a.Site), a.Machines...)
	}
	return names
}

// vpcNames are those of the customers' VPCs.
func (p *Plan) vpcNames() []string {
	names := make([]string, 0, len(p.VPCs))
	for _, v := range p.VPCs {
		if !v.Provider {
			names = append(names, v.Name)
		}
	}
	return names
}

// vet checks what r asks for, room apart.
func (p *Plan) vet(r ReservationPlan) *refusal {
	ends, err := p.ends(r)
	if err != nil {
		return err
	}
	if ends[0].a.Site == ends[1].a.Site {
		return refuse("between", fmt.Sprintf("%s and %s are both at site %s, and within a site nothing is reserved", r.Between[0], r.Between[1], ends[0].a.Site), "expected ends at two sites")
	}
	if err := p.alone(r); err != nil {
		return err
	}
	if r.Rate <= 0 {
		return refuse("rate", "there is no rate to reserve; expected "+nounRate, "")
	}
	return p.vetPath(r, ends)
}

// alone makes sure that no other reservation means the same traffic.
func (p *Plan) alone(r ReservationPlan) *refusal {
	v, _ := p.VPC(r.VPC)
	traffic := v.traffic()
	pair := func(r ReservationPlan) [2]string {
		ends := []string{traffic[r.Between[0]], traffic[r.Between[1]]}
		slices.Sort(ends)
		return [2]string(ends)
	}
	for _, o := range p.Reservations {
		if o.Name == r.Name || o.VPC != r.VPC {
			continue
		}
		same := o.Between == r.Between || o.Between == [2]string{r.Between[1], r.Between[0]}
		switch ends := pair(r); {
		case same:
			return refuse("between", fmt.Sprintf("reservation %s is between the same two; expected one for both", o.Name), "raise its rate")
		case pair(o) == ends && ends[0] != ends[1]: // within one PE nothing is told apart
			return refuse("between", fmt.Sprintf("reservation %s means the same frames: in a vpls a site is all that is at its PE, as frames show machines and no sites", o.Name), "raise its rate, or name machines")
		}
	}
	return nil
}

// traffic is, by the names of ends, whose traffic a reservation means by each.
// What crosses a vpls shows its machines, and by the pseudowire its PEs: a site
// is whatever is at its PE.
func (v *VPCPlan) traffic() map[string]string {
	whose := map[string]string{}
	for _, a := range v.Attachments {
		whose[a.Site] = "site " + a.Site
		if v.Service == ServiceVPLS {
			whose[a.Site] = "PE " + a.PE
		}
	}
	for _, a := range v.Attachments {
		for _, m := range a.Machines { // which are looked for first
			whose[m] = "machine " + m
		}
	}
	return whose
}

// vetPath checks the path that is asked for: a chain of linked routers from
// the PE of one end to that of the other.
func (p *Plan) vetPath(r ReservationPlan, ends [2]reservedEnd) *refusal {
	if r.Asked == nil {
		return nil
	}
	path := r.Asked
	from, to := ends[0].a.PE, ends[1].a.PE
	routers := p.labelRouters()
	for i, name := range path {
		at := fmt.Sprint("path.", i)
		switch {
		case name == reflector:
			return refuse(at, "the route reflector forwards no labelled packets; expected "+oneOf(routers), "")
		case !slices.Contains(routers, name):
			return refuse(at, fmt.Sprintf("there is no router %q; expected %s", name, oneOf(routers)), suggest(name, routers))
		case slices.Contains(path[:i], name):
			return refuse(at, fmt.Sprintf("the path comes to %s twice; expected each router once", name), "")
		case i > 0 && !slices.Contains(p.Neighbors(path[i-1]), name):
			return refuse(at, fmt.Sprintf("the path breaks here: no link joins %s and %s; from %s links lead to %s", path[i-1], name, path[i-1], strings.Join(p.Neighbors(path[i-1]), ", ")), "")
		}
	}
	first, last := path[0], path[len(path)-1]
	switch {
	case from == to:
		return refuse("path", fmt.Sprintf("%s and %s are both at %s: there is no path between them", r.Between[0], r.Between[1], from), "take path away")
	case first == to && last == from:
		back := slices.Clone(path)
		slices.Reverse(back)
		return refuse("path", fmt.Sprintf("the path goes from %s to %s, and the ends are named the other way round", first, last), "did you mean ["+strings.Join(back, ", ")+"]?")
	case first != from:
		return refuse("path.0", fmt.Sprintf("the path begins at %s, and %s is at %s", first, r.Between[0], from), "begin it at "+from)
	case last != to:
		return refuse(fmt.Sprint("path.", len(path)-1), fmt.Sprintf("the path ends at %s, and %s is at %s", last, r.Between[1], to), "end it at "+to)
	}
	return nil
}

// labelRouters names the routers that forward labelled packets.
func (p *Plan) labelRouters() []string {
	var names []string
	for _, n := range p.OfKind(KindPE, KindP) {
		names = append(names, n.Name)
	}
	return names
}
