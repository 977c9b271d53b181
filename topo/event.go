package topo

import (
	"fmt"

	"go.yaml.in/yaml/v4"
)

// An event is written as one mapping. Operation and Fault have keys in common
// (link, site, host …), so the first key that only one of them has decides
// whose they are.

// eventTime is the part of an event that both kinds have.
type eventTime struct {
	At Duration `yaml:"at,omitempty"`
}

// UnmarshalYAML reads an operation or a fault.
func (e *Event) UnmarshalYAML(n *yaml.Node) error {
	var t eventTime
	if err := n.Decode(&t); err != nil {
		return err
	}
	*e = Event{At: t.At}
	if key, _ := child(n, "fault"); key != nil {
		if err := n.Decode(&e.Fault); err != nil {
			return err
		}
	}
	if key, _ := child(n, "do"); key != nil || e.Fault.Kind == "" {
		return n.Decode(&e.Operation)
	}
	return nil
}

// MarshalYAML is the reverse.
func (e Event) MarshalYAML() (any, error) {
	if e.Fault.Kind == "" {
		return struct {
			eventTime `yaml:",inline"`
			Operation `yaml:",inline"`
		}{eventTime{e.At}, e.Operation}, nil
	}
	return struct {
		eventTime `yaml:",inline"`
		Fault     `yaml:",inline"`
	}{eventTime{e.At}, e.Fault}, nil
}

// eventForms reports events that are not exactly one of operation and fault.
func (c *checker) eventForms(f fullScenario) {
	for i, e := range f.Experiments {
		for j, ev := range e.Events {
			at := path("experiments", i, "events", j)
			switch {
			case c.touched(at...):
			case ev.Do != "" && ev.Fault.Kind != "":
				c.fault(append(at, "fault"), "an event is an operation (do) or a fault, and this is both", "make it two events")
			case ev.Do == "" && ev.Fault.Kind == "":
				c.fault(at, "neither do nor fault is there; expected do with an operation, or fault with what breaks", "add for example `do: join` or `fault: link-down`")
			}
		}
	}
}

// String is the event in a few words.
func (e Event) String() string {
	what := e.Operation.String()
	if e.Fault.Kind != "" {
		what = e.Fault.String()
	}
	if e.At == 0 {
		return what
	}
	return fmt.Sprintf("%s at %s", what, e.At)
}
