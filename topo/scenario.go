package topo

// Scenario is one scenario file (<name>.vpclab.yml) as the user wrote it,
// after defaults. Expand turns it into a Plan.
type Scenario struct {
	// Name of the lab: it prefixes every kernel object. [a-z][a-z0-9-]{0,30}.
	Name        string       `yaml:"name"`
	Description string       `yaml:"description,omitempty"`
	Seed        uint64       `yaml:"seed,omitempty"` // default 1
	Kernel      KernelConfig `yaml:"kernel,omitempty"`
	Topology    Topology     `yaml:"topology,omitempty"`
	Generate    *Generate    `yaml:"generate,omitempty"`
	VPCs        Map[VPC]     `yaml:"vpcs,omitempty"`
	VMs         Map[VM]      `yaml:"vms,omitempty"`
	Experiments []Experiment `yaml:"experiments,omitempty"`
	// Figures to draw, by name; empty means all that the experiments feed.
	Figures []string `yaml:"figures,omitempty"`

	File   string `yaml:"-"` // path it was read from, for messages
	Source []byte `yaml:"-"` // the exact text, kept in run.json
}

// KernelConfig sizes the kernel that carries the lab when it is booted (uml).
type KernelConfig struct {
	Memory Size `yaml:"memory,omitempty"` // default 2GiB
}

// Topology is the physical side: the provider's backbone and the sites, and
// plain nodes and links for anything else.
type Topology struct {
	Backbone Backbone    `yaml:"backbone,omitempty"`
	Sites    Map[Site]   `yaml:"sites,omitempty"`
	Nodes    Map[Plain]  `yaml:"nodes,omitempty"`
	Links    []PlainLink `yaml:"links,omitempty"`
}

// Backbone is the provider's MPLS network: PE and P routers and their links.
// A route reflector is always there: it is the VPN controller.
type Backbone struct {
	ASN   uint32         `yaml:"asn,omitempty"` // default 65000
	PE    []string       `yaml:"pe,omitempty"`
	P     []string       `yaml:"p,omitempty"`
	RR    string         `yaml:"rr,omitempty"` // where the route reflector is attached: a PE or P; default the first P, else the first PE
	Links []BackboneLink `yaml:"links,omitempty"`
	// Defaults for links that do not say themselves.
	Defaults Impairment `yaml:"defaults,omitempty"`
	MTU      int        `yaml:"mtu,omitempty"` // core MTU, default 1600
}

// BackboneLink joins two routers. The impairment holds in each direction;
// Forward and Backward override it for between[0]->between[1] and back.
type BackboneLink struct {
	Between    []string `yaml:"between"`
	Impairment `yaml:",inline"`
	Forward    *Impairment `yaml:"forward,omitempty"`
	Backward   *Impairment `yaml:"backward,omitempty"`
	Cost       int         `yaml:"cost,omitempty"` // for shortest paths, default 10
}

// Impairment is what one direction of a link does to packets. The zero value
// does nothing.
type Impairment struct {
	Rate   Rate     `yaml:"rate,omitempty"`   // bit/s on the wire
	Delay  Duration `yaml:"delay,omitempty"`  // one way
	Jitter Duration `yaml:"jitter,omitempty"` // standard deviation, normal distribution
	Loss   Percent  `yaml:"loss,omitempty"`   // 0..100, independent
	Queue  int      `yaml:"queue,omitempty"`  // packets; default: one bandwidth-delay product + 100 where a rate is set
}

// Site is a place with computers in it, reached through one PE.
type Site struct {
	Kind     string     `yaml:"kind"`               // cloud | enterprise
	PE       string     `yaml:"pe"`                 // PE router it is homed to
	Hosts    int        `yaml:"hosts,omitempty"`    // cloud: hypervisor hosts, default 1
	Machines int        `yaml:"machines,omitempty"` // machines (enterprise) or VMs (cloud) in each VPC that comes here; default 1 for an enterprise
	Access   Impairment `yaml:"access,omitempty"`   // of each CE-PE link
}

// VPC is one customer's private cloud: a VPN over some sites.
type VPC struct {
	Service string      `yaml:"service"`           // l3vpn (vpls: not yet)
	Sites   []string    `yaml:"sites,omitempty"`   // sites with subnets chosen by vpclab: 10.<vpc>.<site>.0/24
	Subnets Map[Prefix] `yaml:"subnets,omitempty"` // site -> prefix, for those who choose; may overlap another VPC's
}

// VM is a virtual machine placed by hand on a hypervisor host of a cloud.
type VM struct {
	VPC  string `yaml:"vpc"`
	Host string `yaml:"host"` // site/number, as texas/1
}

// Plain is a bare node: a namespace and nothing else.
type Plain struct {
	Forward bool         `yaml:"forward,omitempty"` // ip_forward
	Routes  []PlainRoute `yaml:"routes,omitempty"`
}

// PlainRoute is a static route of a plain node.
type PlainRoute struct {
	To  Prefix `yaml:"to"`
	Via Addr   `yaml:"via"`
}

// PlainLink joins two interfaces: endpoints ["a:eth1", "b:eth1"].
type PlainLink struct {
	Endpoints  []string `yaml:"endpoints"`
	IPv4       []Prefix `yaml:"ipv4,omitempty"` // one an endpoint, host bits kept
	MTU        int      `yaml:"mtu,omitempty"`
	Impairment `yaml:",inline"`
	Forward    *Impairment `yaml:"forward,omitempty"`
	Backward   *Impairment `yaml:"backward,omitempty"`
}

// Generate makes a regular lab so that a large one needs no long file. It
// adds to what is written out.
type Generate struct {
	Backbone string     `yaml:"backbone"`            // ring | star | mesh | fat-tree: how the P routers are joined
	PE       int        `yaml:"pe"`                  // pe1..peN, each homed to two P (one where there is one)
	P        int        `yaml:"p,omitempty"`         // p1..pN, default 1
	Link     Impairment `yaml:"link,omitempty"`      // of every backbone link
	Sites    int        `yaml:"sites"`               // s1..sN, round robin over the PEs
	SiteKind string     `yaml:"site-kind,omitempty"` // default enterprise
	Tenants  int        `yaml:"tenants"`             // t1..tN, each at every site
	Machines int        `yaml:"machines,omitempty"`  // a tenant and site, default 1
	Service  string     `yaml:"service,omitempty"`   // default l3vpn
	Overlap  bool       `yaml:"overlap,omitempty"`   // all tenants use the same 10.0.<site>.0/24 prefixes
}

// Experiment is one thing done to the lab, repeated.
type Experiment struct {
	Kind     string       `yaml:"kind"`               // vpc-setup
	Name     string       `yaml:"name,omitempty"`     // default the kind (with -2, -3 … when it comes again)
	Vary     Map[[]Value] `yaml:"vary,omitempty"`     // parameter -> values; the cross product is run
	Trials   int          `yaml:"trials,omitempty"`   // default 6
	Warmup   int          `yaml:"warmup,omitempty"`   // trials run and thrown away, default 1
	Baseline string       `yaml:"baseline,omitempty"` // firewall | none; default firewall for vpc-setup
	Expect   []string     `yaml:"expect,omitempty"`
}
