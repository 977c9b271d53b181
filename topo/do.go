package topo

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// OperationError refuses an operation: what is wrong with which of its keys.
type OperationError struct {
	Op   Operation
	Key  []string // "between", "1"; empty: the operation as a whole
	Msg  string   // what is wrong, and what was expected
	Hint string   // what would mend it, if that is known
	err  error
}

func (e *OperationError) Error() string {
	text := e.Op.String() + ": " + e.Msg
	if e.Hint != "" {
		text += "; " + e.Hint
	}
	return text
}

// Unwrap gives the cause that a caller may look for: a [NoRoomError].
func (e *OperationError) Unwrap() error { return e.err }

// String is the operation in a few words: "join acme texas".
func (op Operation) String() string {
	words := []string{op.Do}
	for _, word := range []string{op.VPC, op.Site, op.VM, op.Host, op.Name, strings.Join(op.Between, "--"), strings.Join(op.Link, "--")} {
		if word != "" {
			words = append(words, word)
		}
	}
	return strings.Join(words, " ")
}

// Do is the plan after an operation. It changes nothing of the receiver, and
// gives no new number to anything that is there: what the kernels hold of it
// stays as it is. The error is an *OperationError.
func (p *Plan) Do(op Operation) (*Plan, error) {
	err := op.vet()
	if err == nil {
		b := build(p.clone())
		if err = operations[op.index()].do(b, op); err == nil {
			return b.finish().after(op), nil
		}
	}
	return nil, &OperationError{Op: op, Key: err.at, Msg: err.msg, Hint: err.hint, err: err.err}
}

// clone copies all that an operation may change in place.
func (p *Plan) clone() *Plan {
	q := *p
	q.Nodes, q.Links = slices.Clone(p.Nodes), slices.Clone(p.Links)
	for i := range q.Nodes {
		n := &q.Nodes[i]
		n.Bridges, n.Routes = slices.Clone(n.Bridges), slices.Clone(n.Routes)
	}
	q.VPCs = slices.Clone(p.VPCs)
	for i := range q.VPCs {
		v := &q.VPCs[i]
		v.VRFs, v.VSIs, v.Attachments = slices.Clone(v.VRFs), slices.Clone(v.VSIs), slices.Clone(v.Attachments)
		for j := range v.Attachments {
			a := &v.Attachments[j]
			a.Machines, a.Seats = slices.Clone(a.Machines), slices.Clone(a.Seats)
		}
	}
	return &q
}

// after draws the consequences of an operation.
func (p *Plan) after(op Operation) *Plan {
	p.dropUnused()
	p.Reservations = slices.DeleteFunc(slices.Clone(p.Reservations), func(r ReservationPlan) bool {
		_, err := p.ends(r)
		return err != nil // its end is gone
	})
	if op.Do == "fail" || op.Do == "restore" {
		p.route()
	}
	p.settle(false, "")
	if op.Do == "restore" {
		p.revert()
	}
	p.raiseTopLabel()
	return p
}

// revert lets all reservations choose anew, now that a link is back, unless
// one would lose its room by it.
func (p *Plan) revert() {
	anew := *p
	anew.settle(true, "")
	for i, r := range p.Reservations {
		if r.Unmet == "" && anew.Reservations[i].Unmet != "" {
			return
		}
	}
	*p = anew
}

// operation says what one of them takes and does.
type operation struct {
	name         string
	needs, takes []string
	do           func(b *builder, op Operation) *refusal
}

// operations in the order of messages.
var operations = []operation{
	{"create", []string{"vpc", "service"}, []string{"sites", "subnet"}, (*builder).create},
	{"delete", []string{"vpc"}, nil, (*builder).delete},
	{"join", []string{"vpc", "site"}, nil, (*builder).joinSite},
	{"leave", []string{"vpc", "site"}, nil, (*builder).leave},
	{"add", []string{"vpc"}, []string{"host", "site", "vm"}, (*builder).addMachine},
	{"remove", []string{"vm"}, nil, (*builder).removeMachine},
	{"replicate", []string{"vm", "host"}, []string{"name"}, (*builder).replicate},
	{"move", []string{"vm"}, []string{"host", "site"}, (*builder).move},
	{"reserve", []string{"name", "between", "rate"}, []string{"vpc", "path"}, (*builder).reserve},
	{"release", []string{"name"}, nil, (*builder).release},
	{"fail", []string{"link"}, nil, func(b *builder, op Operation) *refusal { return b.setFailed(op, true) }},
	{"restore", []string{"link"}, nil, func(b *builder, op Operation) *refusal { return b.setFailed(op, false) }},
}

func (op Operation) index() int {
	return slices.IndexFunc(operations, func(o operation) bool { return o.name == op.Do })
}

// vet checks which keys an operation has, and their form.
func (op Operation) vet() *refusal {
	i := op.index()
	if i < 0 {
		var names []string
		for _, o := range operations {
			names = append(names, o.name)
		}
		return refuse("do", fmt.Sprintf("there is no operation %q; expected %s", op.Do, oneOf(names)), suggest(op.Do, names))
	}
	o := operations[i]
	keys := slices.Concat(o.needs, o.takes)
	v := reflect.ValueOf(op)
	for f := range v.NumField() {
		field := v.Type().Field(f)
		key, _, _ := strings.Cut(field.Tag.Get("yaml"), ",")
		value := v.Field(f)
		switch {
		case key == "do":
		case value.IsZero() && slices.Contains(o.needs, key):
			return &refusal{msg: fmt.Sprintf("%s is missing; expected %s", key, strings.Join(keys, ", ")), hint: fmt.Sprintf("add for example `%s: %s`", key, field.Tag.Get("example"))}
		case value.IsZero():
		case !slices.Contains(keys, key):
			return refuse(key, fmt.Sprintf("%s takes no %s; expected %s", op.Do, key, strings.Join(keys, ", ")), "")
		default:
			if err := wellFormed(key, field.Tag.Get("jsonschema"), value.Interface()); err != nil {
				return err
			}
		}
	}
	if (op.Do == "add" || op.Do == "move") && (op.Host == "") == (op.Site == "") {
		return &refusal{msg: "a machine goes to one place; expected host (of a cloud) or site (an enterprise)", hint: "add for example `host: texas/1`"}
	}
	return nil
}

// wellFormed checks a value, or each of a list, as the schema does in files.
func wellFormed(key, tag string, value any) *refusal {
	_, name, _ := strings.Cut(tag, "format=")
	f, ok := formats[name]
	if !ok {
		return nil
	}
	check := func(at, s string) *refusal {
		if e, bad := f.check(s).(*valueError); bad {
			return refuse(at, e.Msg, e.Hint)
		}
		return nil
	}
	switch v := value.(type) {
	case string:
		return check(key, v)
	case fmt.Stringer:
		return check(key, v.String())
	case []string:
		if (key == "between" || key == "link") && len(v) != 2 {
			return refuse(key, counted(len(v), "2"), "")
		}
		for i, s := range v {
			if err := check(fmt.Sprint(key, ".", i), s); err != nil {
				return err
			}
		}
	}
	return nil
}
