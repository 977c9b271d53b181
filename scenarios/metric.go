package scenarios

// Systems that a sample can belong to: its label "system".
const (
	systemVPN  = "vpn"           // BGP/MPLS L3VPN (RFC 4364): the provider isolates
	systemFW   = "firewall"      // a shared network and rules in each machine, one a peer and direction
	systemSets = "firewall-sets" // the same with nftables sets: two rules a machine, one element a peer
)

// labels tell samples of one metric at one point apart.
type labels map[string]string

// metric describes one measured value: for the check of expectations before
// anything runs, and for the reader of samples.csv.
type metric struct {
	name, unit string
	what       string
	labels     []labels // the label sets it comes with, besides the point's own
}

func bySystem(systems ...string) (sets []labels) {
	for _, s := range systems {
		sets = append(sets, labels{"system": s})
	}
	return sets
}

func byKind(systems ...string) (sets []labels) {
	for _, s := range systems {
		sets = append(sets, labels{"system": s, "kind": "config"}, labels{"system": s, "kind": "state"})
	}
	return sets
}
