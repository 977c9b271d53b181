package topo

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// FaultError refuses a fault: what is wrong with which of its keys.
type FaultError struct {
	Fault Fault
	Key   []string // "link", "1"; empty: the fault as a whole
	Msg   string   // what is wrong, and what was expected
	Hint  string   // what would mend it, if that is known
}

func (e *FaultError) Error() string {
	text := e.Fault.String() + ": " + e.Msg
	if e.Hint != "" {
		text += "; " + e.Hint
	}
	return text
}

// String is the fault in a few words: "link-down pe-tx--p1".
func (f Fault) String() string {
	words := []string{f.Kind}
	var sets []string
	for _, set := range f.Apart {
		sets = append(sets, strings.Join(set, "+"))
	}
	for _, word := range []string{f.Process, strings.Join(f.Link, "--"), f.Node, f.Host, f.Site, f.VM, strings.Join(sets, " / ")} {
		if word != "" {
			words = append(words, word)
		}
	}
	return strings.Join(words, " ")
}

// faultKinds in the order of messages: what one of them takes, for and fault
// itself apart.
var faultKinds = []struct {
	name         string
	needs, takes []string
}{
	{FaultLinkDown, []string{"link"}, nil},
	{FaultLinkOneWay, []string{"link"}, nil},
	{FaultLinkSilent, []string{"link"}, nil},
	{FaultDegrade, []string{"link"}, []string{"rate", "delay", "loss"}},
	{FaultFlap, []string{"link", "every"}, []string{"times"}},
	{FaultNodeCrash, []string{"node"}, nil},
	{FaultHostCrash, []string{"host"}, nil},
	{FaultSiteDown, []string{"site"}, nil},
	{FaultPartition, []string{"apart"}, []string{"carrier"}},
	{FaultChurn, []string{"mtbf", "mttr"}, []string{"of", "among"}},
	{FaultKill, []string{"process"}, []string{"node", "host", "vm"}},
	{FaultBGPReset, []string{"node"}, nil},
}

// FaultKinds lists the kinds of faults.
func FaultKinds() []string {
	var names []string
	for _, k := range faultKinds {
		names = append(names, k.name)
	}
	return names
}

// runsAt is the key that says where a process runs.
func runsAt(process string) string {
	switch process {
	case "agent", "witness":
		return "host"
	case "guest":
		return "vm"
	}
	return "node"
}

// isDaemon says whether a process is one of FRR's.
func isDaemon(process string) bool {
	return runsAt(process) == "node" && process != "speaker" && process != "repair"
}

// CheckFault says whether a fault is well formed and the plan has all that it
// names. The error is a *FaultError.
func (p *Plan) CheckFault(f Fault) error {
	err := f.vet()
	if err == nil {
		err = p.hasFor(f)
	}
	if err != nil {
		return &FaultError{Fault: f, Key: err.at, Msg: err.msg, Hint: err.hint}
	}
	return nil
}

// vet checks which keys a fault has, and their form.
func (f Fault) vet() *refusal {
	i := slices.Index(FaultKinds(), f.Kind)
	if i < 0 {
		return refuse("fault", fmt.Sprintf("there is no fault %q; expected %s", f.Kind, oneOf(FaultKinds())), suggest(f.Kind, FaultKinds()))
	}
	k := faultKinds[i]
	keys := slices.Concat(k.needs, k.takes, []string{"for"})
	v := reflect.ValueOf(f)
	for i := range v.NumField() {
		field, value := v.Type().Field(i), v.Field(i)
		key, _, _ := strings.Cut(field.Tag.Get("yaml"), ",")
		switch {
		case key == "fault":
		case value.IsZero() && slices.Contains(k.needs, key):
			return &refusal{msg: fmt.Sprintf("%s is missing; expected %s", key, strings.Join(keys, ", ")), hint: fmt.Sprintf("add for example `%s: %s`", key, field.Tag.Get("example"))}
		case value.IsZero():
		case !slices.Contains(keys, key):
			return refuse(key, fmt.Sprintf("%s takes no %s; expected %s", f.Kind, key, strings.Join(keys, ", ")), "")
		default:
			if err := wellFormed(key, field.Tag.Get("jsonschema"), value.Interface()); err != nil {
				return err
			}
		}
	}
	return f.vetKind()
}

// vetKind checks what only one kind has.
func (f Fault) vetKind() *refusal {
	switch {
	case f.For < 0:
		return refuse("for", "a fault cannot last less than no time", "")
	case f.Kind == FaultDegrade && f.Rate == 0 && f.Delay == 0 && f.Loss == 0:
		return &refusal{msg: "nothing is said of how bad the link is; expected rate, delay or loss", hint: "add for example `loss: 2%`"}
	case f.Kind == FaultFlap && f.For >= f.Every:
		return refuse("for", fmt.Sprintf("the link would be down all the time: for is %s and every %s", f.For, f.Every), "")
	case f.Kind == FaultKill:
		return f.vetProcess()
	case f.Kind == FaultPartition && len(f.Apart) < 2:
		return refuse("apart", counted(len(f.Apart), "at least 2"), "")
	}
	return nil
}

func (f Fault) vetProcess() *refusal {
	processes := strings.Split(strings.ReplaceAll(faultTag("Process"), "enum=", ""), ",")
	if !slices.Contains(processes, f.Process) {
		return refuse("process", fmt.Sprintf("%q is not known; expected %s", f.Process, oneOf(processes)), suggest(f.Process, processes))
	}
	if f.For > 0 && isDaemon(f.Process) {
		return refuse("for", fmt.Sprintf("FRR starts %s again by itself, and at once; expected no for", f.Process), "kill the speaker, which is the parent of all")
	}
	at := runsAt(f.Process)
	given := ""
	for _, place := range []struct{ key, name string }{{"node", f.Node}, {"host", f.Host}, {"vm", f.VM}} {
		switch {
		case place.key == at:
			given = place.name
		case place.name != "":
			return refuse(place.key, fmt.Sprintf("a process %s is named by its %s; expected no %s", f.Process, at, place.key), "")
		}
	}
	if given == "" {
		return &refusal{msg: fmt.Sprintf("%s is missing: where the %s is", at, f.Process), hint: fmt.Sprintf("add `%s: …`", at)}
	}
	return nil
}

func faultTag(field string) string {
	f, _ := reflect.TypeFor[Fault]().FieldByName(field)
	return f.Tag.Get("jsonschema")
}

// hasFor says what the plan lacks of what a fault names.
func (p *Plan) hasFor(f Fault) *refusal {
	switch f.Kind {
	case FaultNodeCrash, FaultBGPReset:
		return p.hasRouter("node", f.Node)
	case FaultHostCrash:
		_, err := p.hostNode(f.Host)
		return err
	case FaultSiteDown:
		_, err := p.siteOf("site", f.Site)
		return err
	case FaultPartition:
		_, err := p.sides(f)
		return err
	case FaultChurn:
		_, err := p.components(f)
		return err
	case FaultKill:
		return p.hasProcess(f)
	}
	_, err := p.between(f.Link)
	return err
}

func (p *Plan) hasRouter(at, name string) *refusal {
	var names []string
	for _, r := range p.Routers() {
		names = append(names, r.Name)
	}
	if slices.Contains(names, name) {
		return nil
	}
	return refuse(at, fmt.Sprintf("there is no router %q; expected %s", name, oneOf(names)), suggest(name, names))
}

func (p *Plan) siteOf(at, name string) (SitePlan, *refusal) {
	b := builder{plan: p}
	return b.findSite(at, name)
}

func (p *Plan) hostNode(host string) (string, *refusal) {
	b := builder{plan: p}
	_, node, err := b.findPlace(Operation{Host: host})
	return node, err
}

func (p *Plan) hasProcess(f Fault) *refusal {
	switch runsAt(f.Process) {
	case "host":
		_, err := p.hostNode(f.Host)
		return err
	case "vm":
		var names []string
		for _, n := range p.Guests() {
			names = append(names, n.Name)
		}
		if !slices.Contains(names, f.VM) {
			return refuse("vm", fmt.Sprintf("there is no VM %q with a guest; expected %s", f.VM, oneOf(names)), suggest(f.VM, names))
		}
		return nil
	}
	if err := p.hasRouter("node", f.Node); err != nil {
		return err
	}
	n, _ := p.Node(f.Node)
	if isDaemon(f.Process) && n.Routing != RoutingFRR {
		return refuse("process", fmt.Sprintf("%s is a daemon of FRR, and %s has none", f.Process, f.Node), "")
	}
	return nil
}

// between are the links that join two nodes.
func (p *Plan) between(ends []string) ([]Link, *refusal) {
	for i, name := range ends {
		if _, ok := p.Node(name); !ok {
			var names []string
			for _, n := range p.Nodes {
				names = append(names, n.Name)
			}
			return nil, refuse(fmt.Sprint("link.", i), fmt.Sprintf("there is no node %q; expected %s", name, oneOf(names)), suggest(name, names))
		}
	}
	x, y := ends[0], ends[1]
	var links []Link
	for _, l := range p.Links {
		if l.A.Node == x && l.B.Node == y || l.A.Node == y && l.B.Node == x {
			links = append(links, l)
		}
	}
	if len(links) == 0 {
		return nil, refuse("link", fmt.Sprintf("no link joins %s and %s; from %s links lead to %s", x, y, x, oneOf(p.Neighbors(x))), "")
	}
	return links, nil
}
