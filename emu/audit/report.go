package audit

import (
	"github.com/vpclab/vpclab/emu/traffic"
)

// Report is what an audit found.
type Report struct {
	Lab      string `json:"lab"`
	Machines int    `json:"machines"`
	VPCs     int    `json:"vpcs"`
	Sites    int    `json:"sites"`
	// IP is who reaches whom by IP, Frames whose frames come to whom below it.
	IP     Matrix `json:"ip"`
	Frames Matrix `json:"frames"`
	// Attacks are counts, one a kind of attack.
	Attacks []Attack `json:"attacks"`
	// Leaks are empty where the VPCs are apart.
	Leaks []Leak `json:"leaks"`
	// Unreached are pairs that should reach each other and do not.
	Unreached []Pair `json:"unreached"`
	// Doubled are pairs of which frames arrive more than once.
	Doubled []Pair `json:"doubled"`
	// Notes say what was left out or could not be asked.
	Notes   []string `json:"notes,omitempty"`
	Seconds Seconds  `json:"seconds"`
}

// Clean tells that nothing leaks, all that should reach does, and nothing
// arrives twice.
func (r *Report) Clean() bool { return len(r.Leaks)+len(r.Unreached)+len(r.Doubled) == 0 }

// Matrix is who could reach whom. Rows are senders, columns receivers.
type Matrix struct {
	Endpoints []Endpoint `json:"endpoints"`
	// Cells[i] is row i, one byte a column: '.' self, 'A' allowed and reached,
	// 'a' allowed and not reached, 'f' forbidden and nothing arrived, 'L'
	// forbidden and something arrived, '=' forbidden and with the sender's own
	// address, so that it cannot be asked by IP.
	Cells     []string `json:"cells"`
	Allowed   int      `json:"allowed"`
	Reached   int      `json:"reached"`
	Forbidden int      `json:"forbidden"`
	Leaks     int      `json:"leaks"`
	// Sent are the probes it took.
	Sent int `json:"sent"`
}

// Endpoint is one machine of a Matrix.
type Endpoint struct {
	Name string `json:"name"`
	VPC  string `json:"vpc"`
	Site string `json:"site"`
	Addr string `json:"addr"`
}

// Attack counts the attacks of a kind.
type Attack struct {
	Kind    Kind `json:"kind"`
	Sources int  `json:"sources"` // interfaces that they came from
	Tried   int  `json:"tried"`
	Entered int  `json:"entered"` // seen where the sender's circuit enters its PE
	Stayed  int  `json:"stayed"`  // seen in the sender's own VPC, which is no leak
	Leaked  int  `json:"leaked"`
}

// Pair is an ordered pair of machines that is not as it should be.
type Pair struct {
	By   string `json:"by"` // ip | frame
	From string `json:"from"`
	To   string `json:"to"`
	Seen string `json:"seen"` // what is known
}

// Leak is something of one VPC that came to another's, or to the provider.
type Leak struct {
	Kind  Kind   `json:"kind"`
	From  string `json:"from"`   // node that sent it
	VPC   string `json:"vpc"`    // its
	What  string `json:"what"`   // was sent
	To    string `json:"to"`     // node or interface where it was seen
	ToVPC string `json:"to_vpc"` // "" for the provider
	Seen  string `json:"seen,omitempty"`
	// Crossed is where it went from one VPC to the other. It is found by doing
	// the same again with taps on every interface.
	Crossed Crossing `json:"crossed,omitzero"`
}

// Crossing is the hop where a leak crossed.
type Crossing struct {
	Node string `json:"node"` // "" where it was not seen to cross again
	// Entered and Left are the interfaces, with what they are and the labels.
	Entered string   `json:"entered,omitempty"`
	Left    string   `json:"left,omitempty"`
	Path    []string `json:"path,omitempty"` // every place it was seen at, in order, up to there
	Why     string   `json:"why,omitempty"`  // it is not known
}

// Seconds are times of the audit, by the lab kernel's monotonic clock.
type Seconds struct {
	Sockets float64 `json:"sockets"` // opening one in each machine, twice, and at each circuit and backbone link
	IP      float64 `json:"ip"`
	Frames  float64 `json:"frames"`
	Attacks float64 `json:"attacks"`
	Again   float64 `json:"again"` // pairs by IP once more, after the attacks
	Traces  float64 `json:"traces"`
	All     float64 `json:"all"`
}

// Pairs counts the ordered pairs of machines.
func (r *Report) Pairs() int { return r.Machines * (r.Machines - 1) }

// PairsPerSecond is how fast pairs were asked, attacks included.
func (r *Report) PairsPerSecond() float64 {
	if r.Seconds.All == 0 {
		return 0
	}
	return float64(r.Pairs()) / r.Seconds.All
}

// Tried counts all attacks.
func (r *Report) Tried() (n int) {
	for _, a := range r.Attacks {
		n += a.Tried
	}
	return n
}

func endpoints(eps []traffic.Endpoint) (out []Endpoint) {
	for _, e := range eps {
		out = append(out, Endpoint{Name: e.Name, VPC: e.VPC, Site: e.Site, Addr: e.Addr.String()})
	}
	return out
}
