package topo

// Operation is one change of a running lab: what `vpclab vpc` and `vpclab vm`
// do, and what an experiment's events are. Which keys it takes depends on Do.
//
//	create     vpc, service; sites, subnet, subnets      a VPC comes
//	delete     vpc                                       a VPC goes, with its VMs
//	join       vpc, site                                 a site joins; one that the VPC never was at gets a LAN first
//	leave      vpc, site                                 a site leaves; its LAN and machines stay, apart from the VPC
//	add        vpc, host; vm                             a VM starts on a host; a site that the VPC was not at joins
//	remove     vm                                        a VM ends
//	replicate  vm, host; name                            a VM like vm starts on another host, as with add
//	move       vm, host                                  a VM moves cold; in a vpls with its address and MAC
//	reserve    name, vpc, between, rate; path            bandwidth is set aside
//	release    name                                      and given back
//	fail       link                                      a core link goes down, and everything that can takes another way
//	restore    link                                      and comes back
type Operation struct {
	// What is done.
	Do string `yaml:"do" json:"do" jsonschema:"required,enum=create,enum=delete,enum=join,enum=leave,enum=add,enum=remove,enum=replicate,enum=move,enum=reserve,enum=release,enum=fail,enum=restore" example:"join"`
	// The VPC.
	VPC string `yaml:"vpc,omitempty" json:"vpc,omitempty" jsonschema:"format=vpclab-vpc" example:"acme"`
	// create: how the sites are joined.
	Service string `yaml:"service,omitempty" json:"service,omitempty" jsonschema:"enum=l3vpn,enum=vpls" example:"vpls"`
	// create: the sites.
	Sites []string `yaml:"sites,omitempty" json:"sites,omitempty" jsonschema:"format=vpclab-site" example:"[texas, hq]"`
	// create: the one subnet of a vpls.
	Subnet Prefix `yaml:"subnet,omitempty" json:"subnet,omitzero" jsonschema:"format=vpclab-subnet" example:"10.0.0.0/24"`
	// The site that joins or leaves.
	Site string `yaml:"site,omitempty" json:"site,omitempty" jsonschema:"format=vpclab-site" example:"texas"`
	// The VM that is removed, replicated or moved; add: its name, without it the next in the usual form.
	VM string `yaml:"vm,omitempty" json:"vm,omitempty" jsonschema:"format=vpclab-node" example:"shop"`
	// add, replicate, move: the host, as site/number.
	Host string `yaml:"host,omitempty" json:"host,omitempty" jsonschema:"format=vpclab-host" example:"texas/1"`
	// replicate: name of the new VM, without it <vm>-r1, -r2 …; reserve, release: name of the reservation.
	Name string `yaml:"name,omitempty" json:"name,omitempty" jsonschema:"format=vpclab-node" example:"shop-r1"`
	// reserve: the two ends, each a machine or a site.
	Between []string `yaml:"between,omitempty" json:"between,omitempty" jsonschema:"format=vpclab-node" example:"[shop, hq]"`
	// reserve: bits a second, each way.
	Rate Rate `yaml:"rate,omitempty" json:"rate,omitempty" example:"50mbit"`
	// reserve: the routers to go by, from PE to PE; without it the cheapest path with room.
	Path []string `yaml:"path,omitempty" json:"path,omitempty" jsonschema:"format=vpclab-router" example:"[pe1, p2, pe2]"`
	// fail, restore: the two routers of a core link.
	Link []string `yaml:"link,omitempty" json:"link,omitempty" jsonschema:"format=vpclab-router" example:"[p1, p2]"`
}
