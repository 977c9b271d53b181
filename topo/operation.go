package topo

// Operation is one change of a running lab: what `vpclab vpc` and `vpclab vm`
// do, and what an experiment's events are. [Plan.Do] does it.
type Operation struct {
	// What is done; in brackets the keys it takes, those that it can do without after the semicolon. create (vpc, service; sites, subnet): a VPC comes. delete (vpc): it goes, with its VMs and reservations. join (vpc, site): a site joins, and gets a LAN first where the VPC never was. leave (vpc, site): a site leaves; its LAN and machines stay, apart from the VPC. add (vpc, host or site; vm): a VM starts on a host of a cloud, or a machine is plugged into the LAN of an enterprise; the site joins if it has not. remove (vm): it ends, and with it what is reserved for it. replicate (vm, host; name): a VM like it starts on another host, as with add. move (vm, host or site): it moves cold; in a vpls, and within a site, it keeps its address and MAC. reserve (name, between, rate; vpc, path): bandwidth is set aside, in the VPC named or in that of a machine among the ends. release (name): and given back. fail (link): a core link goes down, and everything that can takes another way. restore (link): it comes back.
	Do string `yaml:"do,omitempty" json:"do" jsonschema:"enum=create,enum=delete,enum=join,enum=leave,enum=add,enum=remove,enum=replicate,enum=move,enum=reserve,enum=release,enum=fail,enum=restore" example:"join"`
	// The VPC.
	VPC string `yaml:"vpc,omitempty" json:"vpc,omitempty" jsonschema:"format=vpclab-vpc" example:"acme"`
	// create: how the sites are joined.
	Service string `yaml:"service,omitempty" json:"service,omitempty" jsonschema:"enum=l3vpn,enum=vpls" example:"vpls"`
	// create: the sites.
	Sites []string `yaml:"sites,omitempty" json:"sites,omitempty" jsonschema:"format=vpclab-site" example:"[texas, hq]"`
	// create: the one subnet of a vpls.
	Subnet *Prefix `yaml:"subnet,omitempty" json:"subnet,omitempty" jsonschema:"format=vpclab-subnet" example:"10.0.0.0/24"`
	// join, leave: the site; add, move: the enterprise, in place of a host.
	Site string `yaml:"site,omitempty" json:"site,omitempty" jsonschema:"format=vpclab-site" example:"texas"`
	// The VM or machine that is removed, replicated or moved; add: its name, without it the next in the usual form.
	VM string `yaml:"vm,omitempty" json:"vm,omitempty" jsonschema:"format=vpclab-machine" example:"shop"`
	// add, replicate, move: the host, as site/number.
	Host string `yaml:"host,omitempty" json:"host,omitempty" jsonschema:"format=vpclab-host" example:"texas/1"`
	// replicate: name of the new VM, without it <vm>-r1, -r2 …; reserve, release: name of the reservation.
	Name string `yaml:"name,omitempty" json:"name,omitempty" jsonschema:"format=vpclab-node" example:"shop-r1"`
	// reserve: the two ends, each a machine or a site.
	Between []string `yaml:"between,omitempty" json:"between,omitempty" jsonschema:"format=vpclab-machine" example:"[shop, hq]"`
	// reserve: bits a second, each way.
	Rate Rate `yaml:"rate,omitempty" json:"rate,omitempty" example:"50mbit"`
	// reserve: the routers to go by, from PE to PE; without it the cheapest path with room.
	Path []string `yaml:"path,omitempty" json:"path,omitempty" jsonschema:"format=vpclab-router" example:"[pe1, p2, pe2]"`
	// fail, restore: the two routers of a core link.
	Link []string `yaml:"link,omitempty" json:"link,omitempty" jsonschema:"format=vpclab-router" example:"[p1, p2]"`
}
