package topo

// The comments in this file are the user's manual: the JSON Schema takes its
// descriptions from them, and docs/scenario-reference.md is made from the
// schema. Bounds and defaults stand in the jsonschema tags, examples in the
// example tags; nothing of it is said twice.

// Scenario is one scenario file, <name>.vpclab.yml: the lab, what runs in it
// and what is done to it. A file needs a name and something to build:
// topology or generate.
type Scenario struct {
	// Name of the lab. It prefixes every object in the kernel.
	Name string `yaml:"name" jsonschema:"required,format=vpclab-lab" example:"wan-migration"`
	// What the scenario is for, in a line or two.
	Description string `yaml:"description,omitempty" example:"Two tenants with the same addresses"`
	// Seed of every random choice. The same file and seed give the same lab and the same order of trials.
	Seed uint64 `yaml:"seed" jsonschema:"minimum=0,default=1" example:"42"`
	// The kernel that carries the lab, where vpclab boots one.
	Kernel KernelConfig `yaml:"kernel,omitempty" example:"{memory: 1GiB}"`
	// The physical side: backbone, sites, and plain nodes and links.
	Topology Topology `yaml:"topology,omitempty"`
	// A regular lab made by rule, added to what is written out.
	Generate *Generate `yaml:"generate,omitempty" example:"{backbone: ring, pe: 8, p: 4, sites: 8, tenants: 20, machines: 2}"`
	// The customers' private clouds, by name. Their order gives their numbers.
	VPCs Map[VPC] `yaml:"vpcs,omitempty" keys:"vpclab-vpc" example:"{acme: {service: l3vpn, sites: [hq, texas]}}"`
	// Virtual machines placed by hand, by name.
	VMs Map[VM] `yaml:"vms,omitempty" keys:"vpclab-node" example:"{shop: {vpc: acme, host: texas/1}}"`
	// Bandwidth set aside in the backbone, by name. Each takes the cheapest path that those before it leave room on.
	Reservations Map[Reservation] `yaml:"reservations,omitempty" keys:"vpclab-reserve" example:"{video: {vpc: acme, between: [shop, hq], rate: 50mbit}}"`
	// What is done to the lab, in this order.
	Experiments []Experiment `yaml:"experiments,omitempty" example:"[{kind: vpc-setup, trials: 6}]"`
	// What the results are to prove, in words and in numbers. The report says of each whether they do.
	Claims []Claim `yaml:"claims,omitempty" example:"[{id: C1, says: No packet leaves its VPC, holds: {audit: [leaks == 0]}}]"`
	// Figures to draw, by name. Without it: all that the experiments feed.
	Figures []string `yaml:"figures,omitempty" jsonschema:"format=vpclab-word" example:"[setup-breakdown]"`

	File   string `yaml:"-"` // path it was read from, for messages
	Source []byte `yaml:"-"` // the exact text, kept in run.json

	doc *document // where each value stands in Source; nil when built in Go
}

// KernelConfig sizes the kernel that carries the lab, where vpclab boots one
// (uml, qemu). It means nothing on the host's own kernel.
type KernelConfig struct {
	// Memory of the booted kernel. It is an upper bound: what the lab does not touch costs nothing.
	Memory Size `yaml:"memory,omitempty" jsonschema:"default=2GiB" example:"1GiB"`
}

// Topology is the physical side: the provider's backbone with the sites that
// are reached through it, and plain nodes and links for anything else.
type Topology struct {
	// The provider's MPLS network.
	Backbone Backbone `yaml:"backbone,omitempty" example:"{pe: [pe1, pe2], links: [{between: [pe1, pe2], delay: 5ms}]}"`
	// Clouds and enterprise sites, by name. Their order gives their numbers.
	Sites Map[Site] `yaml:"sites,omitempty" keys:"vpclab-site" example:"{hq: {kind: enterprise, pe: pe1}}"`
	// Bare nodes, by name: a network namespace each and nothing else.
	Nodes Map[Plain] `yaml:"nodes,omitempty" keys:"vpclab-node" example:"{left: {}, right: {}}"`
	// Links between bare nodes.
	Links []PlainLink `yaml:"links,omitempty" example:"[{endpoints: [left:eth1, right:eth1], ipv4: [192.0.2.1/24, 192.0.2.2/24]}]"`
}

// Backbone is the provider's MPLS network: PE routers, P routers and the
// links between them, which must join them all. A route reflector named rr is
// always there: it is the VPN controller.
type Backbone struct {
	// The provider's autonomous system: the first half of every RD and RT.
	ASN uint32 `yaml:"asn,omitempty" jsonschema:"minimum=1,maximum=65534,default=65000" example:"64512"`
	// Provider edge routers, which sites are homed to. Their order gives their numbers.
	PE []string `yaml:"pe,omitempty" jsonschema:"format=vpclab-router" example:"[pe-tx, pe-il]"`
	// Provider core routers, which see labels only.
	P []string `yaml:"p,omitempty" jsonschema:"format=vpclab-router" example:"[p1, p2]"`
	// The router that the route reflector is attached to. Without it: the first P, or the first PE where there is none.
	RR string `yaml:"rr,omitempty" jsonschema:"format=vpclab-router" example:"p1"`
	// Links between the routers.
	Links []BackboneLink `yaml:"links,omitempty" example:"[{between: [pe-tx, p1], rate: 465mbit, delay: 6.7ms}]"`
	// What holds for each link that does not say otherwise.
	Defaults Impairment `yaml:"defaults,omitempty" example:"{rate: 1gbit, delay: 2ms}"`
	// MTU of the backbone's links, in bytes. A label stack of two needs 8 bytes more than the LANs' MTU, and the frames of a vpls 14 more for their Ethernet header.
	MTU int `yaml:"mtu,omitempty" jsonschema:"minimum=1280,maximum=9216,default=1600" example:"9000"`
	// Who distributes labels and VPN routes at the routers. controller: vpclab's controller and GoBGP; frr: the daemons of FRR, a reference that no one here wrote.
	Routing string `yaml:"routing,omitempty" jsonschema:"enum=controller,enum=frr,default=controller" example:"frr"`
	// What single routers do in another way than the backbone, by name.
	Routers Map[Router] `yaml:"routers,omitempty" keys:"vpclab-router" example:"{pe-il: {routing: frr}}"`
	// What the backbone does by itself when a link or a router fails. Without it: nothing, until BGP's hold timer runs out.
	Recovery *Recovery `yaml:"recovery,omitempty" example:"{detect: [carrier, bfd]}"`
}

// Router is what one router does in another way than the backbone.
type Router struct {
	// Who distributes labels and VPN routes at this router.
	Routing string `yaml:"routing" jsonschema:"required,enum=controller,enum=frr" example:"frr"`
}

// BackboneLink joins two routers. Its rate, delay, jitter, loss and queue hold
// in each direction; forward and backward change one direction.
type BackboneLink struct {
	// The two routers.
	Between    []string `yaml:"between" jsonschema:"required,minItems=2,maxItems=2,format=vpclab-router" example:"[pe-tx, p1]"`
	Impairment `yaml:",inline"`
	// What is different from the first router to the second.
	Forward *Impairment `yaml:"forward,omitempty" example:"{rate: 10mbit}"`
	// What is different from the second router to the first.
	Backward *Impairment `yaml:"backward,omitempty" example:"{loss: 0.5%}"`
	// Cost for shortest paths, the same in both directions.
	Cost int `yaml:"cost,omitempty" jsonschema:"minimum=1,maximum=65535,default=10" example:"100"`
}

// Impairment is what one direction of a link does to packets. Without any of
// it a link is as fast as the kernel can make it.
type Impairment struct {
	// Bits a second on the wire, Ethernet header included.
	Rate Rate `yaml:"rate,omitempty" example:"465mbit"`
	// Delay of each packet, one way.
	Delay Duration `yaml:"delay,omitempty" example:"13.5ms"`
	// Standard deviation of the delay, normally distributed. It needs a delay.
	Jitter Duration `yaml:"jitter,omitempty" example:"1ms"`
	// Share of packets lost, each on its own.
	Loss Percent `yaml:"loss,omitempty" example:"0.1%"`
	// Packets that wait where a rate is set, before they are dropped. Without it: four times rate times one-way delay in 1500-byte packets, and 100.
	Queue int `yaml:"queue,omitempty" jsonschema:"minimum=1,maximum=1000000" example:"200"`
}

// Site is a place with computers in it, reached through one PE. Each VPC that
// comes to a site gets a customer edge router (CE) and a LAN of its own there.
type Site struct {
	// A cloud has hypervisor hosts that run VMs; an enterprise has machines on a LAN.
	Kind string `yaml:"kind" jsonschema:"required,enum=cloud,enum=enterprise" example:"cloud"`
	// The PE that the site is homed to.
	PE string `yaml:"pe" jsonschema:"required,format=vpclab-router" example:"pe-tx"`
	// A second PE that the site is homed to: each VPC there has a circuit to both, and takes this one while the other cannot be used. In a vpls it is closed until then, as two open ones would be a loop. Both PEs are vpclab's own, not FRR.
	BackupPE string `yaml:"backup-pe,omitempty" jsonschema:"format=vpclab-router" example:"pe-il"`
	// Hypervisor hosts of a cloud. Without it: 1 in a cloud.
	Hosts int `yaml:"hosts,omitempty" jsonschema:"minimum=1,maximum=99" example:"2"`
	// Machines (VMs in a cloud, spread over its hosts) of each VPC that comes here. Without it: 1 in an enterprise, 0 in a cloud.
	Machines int `yaml:"machines" jsonschema:"minimum=0,maximum=10000" example:"3"`
	// What each link between a CE and the PE does, in each direction.
	Access Impairment `yaml:"access,omitempty" example:"{rate: 100mbit, delay: 2ms}"`
}

// VPC is one customer's private cloud: a VPN over some sites. Two VPCs may
// use the same addresses.
type VPC struct {
	// How the sites are joined. l3vpn: a subnet a site, routed (BGP/MPLS IP VPN, RFC 4364); vpls: one Ethernet over all sites (RFC 4761).
	Service string `yaml:"service" jsonschema:"required,enum=l3vpn,enum=vpls" example:"l3vpn"`
	// Sites whose addresses vpclab chooses: 10.<vpc>.<site>.0/24, by the numbers of the VPC and the site; in a vpls, see subnet.
	Sites []string `yaml:"sites,omitempty" jsonschema:"format=vpclab-site" example:"[texas, hq]"`
	// l3vpn: sites whose subnet you choose. The gateway gets the first address, the machines those that follow.
	Subnets Map[Prefix] `yaml:"subnets,omitempty" keys:"vpclab-site" values:"vpclab-subnet" example:"{texas: 10.0.0.0/24}"`
	// vpls: the one subnet of all sites, whose machines are numbered through. Without it: 10.<vpc>.0.0/16, of which each site uses 10.<vpc>.<site>.0/24.
	Subnet *Prefix `yaml:"subnet,omitempty" jsonschema:"format=vpclab-subnet" example:"10.0.0.0/24"`
	// MTU of the VPC's LANs, in bytes.
	MTU int `yaml:"mtu,omitempty" jsonschema:"minimum=576,maximum=9194,default=1500" example:"9000"`
	// l3vpn: how many prefixes a site has besides its LAN, by site, 1 to 10000: so many single addresses from 100.64.0.0 + 16384 (s - 1) on, for site number s. Its PE announces each of them, and its first machine answers for all.
	Prefixes Map[int] `yaml:"prefixes,omitempty" keys:"vpclab-site" example:"{hq: 1000}"`
	// vpls: how long a bridge remembers a MAC that is silent, at least 1s. Without it: 300s.
	MACAgeing Duration `yaml:"mac-ageing,omitempty" example:"20s"`
	// vpls: whether the machines have an IPv6 link-local address.
	IPv6 bool `yaml:"ipv6,omitempty" jsonschema:"default=false" example:"true"`
}

// VM is a virtual machine placed by hand on a hypervisor host of a cloud. It
// gets the next free address of its VPC's LAN there.
type VM struct {
	// The VPC it belongs to.
	VPC string `yaml:"vpc" jsonschema:"required,format=vpclab-vpc" example:"acme"`
	// Where it runs: site/number of the host.
	Host string `yaml:"host" jsonschema:"required,format=vpclab-host" example:"texas/1"`
	// Its address in the LAN's subnet. Two VPCs may have the same one.
	Address *Addr `yaml:"address,omitempty" example:"10.1.1.100"`
	// Its MAC, which begins with 02. Two VPCs may have the same one.
	MAC MAC `yaml:"mac,omitempty" example:"02:aa:00:00:00:01"`
	// What runs in it. process: a workload with real memory, a disk and clients, which can be migrated while it runs. qemu: the same workload on a Linux kernel of its own in QEMU. Without it: process where memory or scale is given, else nothing: the VM is a network namespace.
	Guest string `yaml:"guest,omitempty" jsonschema:"enum=process,enum=qemu" example:"process"`
	// guest qemu: a disk image of your own (raw or qcow2), from the folder of the scenario file, in place of the workload. It is never written: it is copied onto the VM's disk when the VM is switched on for the first time, and so moves with it; disk is at least as large.
	Image string `yaml:"image,omitempty" example:"debian-12.qcow2"`
	// guest qemu: a kernel of your own, from the folder of the scenario file. It is told of the console, and that its root is the first partition of the disk, or the disk where that has none. Without it: the image boots as a PC does, or without an image Debian's kernel that `./run.sh kernel-image` fetches.
	Kernel string `yaml:"kernel,omitempty" example:"vmlinuz"`
	// By how much the published workload of 1 GiB is made smaller: full is as it was published, quarter has a fourth of its memory, mini a sixteenth. Hot sets and caches shrink likewise; dirty rates in bytes a second, block sizes and shares stay. Without it: as memory is to 1GiB.
	Scale string `yaml:"scale,omitempty" jsonschema:"enum=mini,enum=quarter,enum=full" example:"mini"`
	// Memory of the guest, at least 1MiB. Without it: that of its scale, 64MiB, 256MiB or 1GiB; quarter where there is no scale.
	Memory Size `yaml:"memory,omitempty" example:"256MiB"`
	// Disk of the guest. Without it: none.
	Disk Size `yaml:"disk,omitempty" example:"1GiB"`
	// What the guest does. tpcw: a web shop with skewed writes (TPC-W); kernelbuild: sequential writes of a compiler; specjbb: a Java server, most of its memory zero; mmuncher: writes faster than links carry (Clark, NSDI 2005); idle: serves clients and writes nothing else; trace: what a recorded trace says. Without it: idle.
	Workload string `yaml:"workload,omitempty" jsonschema:"enum=tpcw,enum=kernelbuild,enum=specjbb,enum=mmuncher,enum=idle,enum=trace" example:"tpcw"`
	// workload trace: the file with the recorded writes, from the folder of the scenario file.
	Trace string `yaml:"trace,omitempty" example:"shop.trace"`
	// TCP port where the guest serves its clients. Without it: 80.
	Port int `yaml:"port,omitempty" jsonschema:"minimum=1,maximum=65535" example:"8080"`
	// A second seat in another cloud, which takes over when the VM's host or cloud is lost. Without it the VM is lost with them.
	Standby *Standby `yaml:"standby,omitempty" example:"{host: illinois/1, mode: checkpoint, epoch: 50ms}"`
}

// Standby is the second seat of a VM: a host in another cloud that holds what
// the VM needs to go on there, with the same address and MAC. A witness in a
// third cloud sees to it that never both run.
type Standby struct {
	// Where it stands: site/number of a host of another cloud, which the VPC comes to.
	Host string `yaml:"host" jsonschema:"required,format=vpclab-host" example:"illinois/1"`
	// What is promised. checkpoint: memory, disk and TCP connections go on, and nothing that a client was told is lost; what the VM sends waits for the checkpoint that it rests on. async: memory and disk go on, nothing waits, and what clients were told since the last checkpoint is lost. pipelined: the VM boots from its disk there, and nothing that a client was told is lost; answers wait for writes, many of which are under way. sync: likewise, and each write waits by itself.
	Mode string `yaml:"mode,omitempty" jsonschema:"enum=checkpoint,enum=async,enum=pipelined,enum=sync,default=checkpoint" example:"sync"`
	// From one checkpoint to the next; pipelined: from one batch of writes to the next. Without it: 50ms, for a VM with guest: qemu 250ms; pipelined: 2ms.
	Epoch Duration `yaml:"epoch,omitempty" example:"100ms"`
	// Where the witness is: site/number of a host of a third cloud. Without it: the first host of the first such cloud.
	Witness string `yaml:"witness,omitempty" jsonschema:"format=vpclab-host" example:"oregon/1"`
	// How long a seat hears nothing of the other until it takes it for lost, at least three epochs. Without it: 200ms, or three epochs where that is more.
	Silence Duration `yaml:"silence,omitempty" example:"500ms"`
}

// Reservation is bandwidth between two ends of a VPC, the same each way, on
// every backbone link between them. A tenth of each link's rate cannot be
// reserved: routing and whoever reserved nothing live on it. On the circuits
// between CE and PE reservations are counted in the same way, but packets are
// not told apart. A link without a rate is never full.
type Reservation struct {
	// The VPC.
	VPC string `yaml:"vpc" jsonschema:"required,format=vpclab-vpc" example:"acme"`
	// The two ends, each a machine or VM of the VPC, or one of its sites. In a vpls a site stands for all of the VPC that is at the same PE: frames show their machines and no sites.
	Between []string `yaml:"between" jsonschema:"required,minItems=2,maxItems=2,format=vpclab-machine" example:"[shop, hq]"`
	// Bits a second on the wire, each way.
	Rate Rate `yaml:"rate" jsonschema:"required" example:"50mbit"`
	// The routers to go by, from the PE of the first end to that of the second, over at most 7 links. Without it: the cheapest path with room.
	Path []string `yaml:"path,omitempty" jsonschema:"minItems=2,format=vpclab-router" example:"[pe1, p2, pe2]"`
}

// Plain is a bare node: a network namespace and nothing else.
type Plain struct {
	// Whether it forwards packets between its interfaces.
	Forward bool `yaml:"forward,omitempty" jsonschema:"default=false" example:"true"`
	// Static routes.
	Routes []PlainRoute `yaml:"routes,omitempty" example:"[{to: 0.0.0.0/0, via: 192.0.2.1}]"`
}

// PlainRoute is a static route of a bare node.
type PlainRoute struct {
	// Destination; 0.0.0.0/0 is the default route.
	To Prefix `yaml:"to" jsonschema:"required,format=vpclab-subnet" example:"10.9.0.0/16"`
	// Next hop: an address on one of the node's links.
	Via Addr `yaml:"via" jsonschema:"required" example:"192.0.2.1"`
}

// PlainLink joins two interfaces of bare nodes. Its rate, delay, jitter, loss
// and queue hold in each direction; forward and backward change one direction.
type PlainLink struct {
	// The two ends, node:interface.
	Endpoints []string `yaml:"endpoints" jsonschema:"required,minItems=2,maxItems=2,format=vpclab-endpoint" example:"[left:eth1, right:eth1]"`
	// Addresses of the two ends, with their prefix length.
	IPv4 []Prefix `yaml:"ipv4,omitempty" jsonschema:"minItems=2,maxItems=2" example:"[192.0.2.1/24, 192.0.2.2/24]"`
	// MTU of both ends, in bytes.
	MTU        int `yaml:"mtu,omitempty" jsonschema:"minimum=68,maximum=65535,default=1500" example:"9000"`
	Impairment `yaml:",inline"`
	// What is different from the first end to the second.
	Forward *Impairment `yaml:"forward,omitempty" example:"{rate: 10mbit}"`
	// What is different from the second end to the first.
	Backward *Impairment `yaml:"backward,omitempty" example:"{loss: 0.5%}"`
}

// Generate makes a regular lab so that a large one needs no long file. It adds
// to what is written out: pe1…, p1…, s1… and t1… are the names it gives, and
// `vpclab render` prints the result.
type Generate struct {
	// How the P routers are joined. ring: each to the next; star: all to p1; mesh: each to each; fat-tree: two layers, every leaf to every spine, the first half of the P routers being spines.
	Backbone string `yaml:"backbone" jsonschema:"required,enum=ring,enum=star,enum=mesh,enum=fat-tree" example:"ring"`
	// PE routers, each linked to two P routers (to one where there is one): those of the ring or mesh, the leaves of the star or fat tree.
	PE int `yaml:"pe" jsonschema:"required,minimum=1,maximum=250" example:"8"`
	// P routers.
	P int `yaml:"p,omitempty" jsonschema:"minimum=1,maximum=250,default=1" example:"4"`
	// What each generated backbone link does, in each direction.
	Link Impairment `yaml:"link,omitempty" example:"{delay: 2ms}"`
	// Sites, homed to the generated PEs in turn.
	Sites int `yaml:"sites" jsonschema:"required,minimum=0,maximum=250" example:"8"`
	// Kind of the generated sites.
	SiteKind string `yaml:"site-kind,omitempty" jsonschema:"enum=cloud,enum=enterprise,default=enterprise" example:"cloud"`
	// VPCs, each at every generated site.
	Tenants int `yaml:"tenants" jsonschema:"required,minimum=0,maximum=250" example:"20"`
	// Machines of each tenant at each site.
	Machines int `yaml:"machines" jsonschema:"minimum=0,maximum=10000,default=1" example:"2"`
	// Service of the generated VPCs.
	Service string `yaml:"service,omitempty" jsonschema:"enum=l3vpn,enum=vpls,default=l3vpn" example:"vpls"`
	// Whether all tenants use the same subnets, 10.0.<site>.0/24; in a vpls 10.0.0.0/16.
	Overlap bool `yaml:"overlap,omitempty" jsonschema:"default=false" example:"true"`
}

// Experiment is one thing done to the lab, repeated.
type Experiment struct {
	// What is done. vpc-setup: how long it takes until every allowed pair of machines reaches each other and no other pair does; vpc-operations: how long each change of a running VPC takes, and what the others notice of it; lan: what a vpls does that an Ethernet does, and how fast; reservation: a reserved flow beside greedy ones; audit: who reaches whom, with forged packets too; routing-peer: FRR in place of, and beside, vpclab's own control plane; migration: VMs move between clouds while clients use them; content: what there is to be saved in the memory of a workload; reconvergence: how long packets are lost after a fault of the network; failover: a VM goes on in another cloud when its own is lost; availability: a VM under random faults.
	Kind string `yaml:"kind" jsonschema:"required,enum=vpc-setup,enum=vpc-operations,enum=lan,enum=reservation,enum=audit,enum=routing-peer,enum=migration,enum=content,enum=reconvergence,enum=failover,enum=availability" example:"vpc-setup"`
	// Name in the results. Without it: the kind, with -2, -3 … when it comes again.
	Name string `yaml:"name,omitempty" jsonschema:"format=vpclab-word" example:"setup-against-sites"`
	// Parameters and the values each takes; all combinations are run. Which parameters there are depends on the kind.
	Vary Map[[]Value] `yaml:"vary,omitempty" keys:"vpclab-word" example:"{sites: [2, 4, 8], tenants: 1}"`
	// Trials of each combination. An interval of 95 % about a median needs six.
	Trials int `yaml:"trials,omitempty" jsonschema:"minimum=1,maximum=10000,default=6" example:"10"`
	// Trials of each combination that are run first and thrown away.
	Warmup int `yaml:"warmup" jsonschema:"minimum=0,maximum=1000,default=1" example:"0"`
	// vpc-setup: what it is measured against: the same isolation by firewall rules on a shared network, or nothing. Without it: firewall.
	Baseline string `yaml:"baseline,omitempty" jsonschema:"enum=firewall,enum=none" example:"none"`
	// What happens to the lab meanwhile, in this order; each trial begins with the lab as the file has it. Which kinds take events, and from when they count, is theirs to say.
	Events []Event `yaml:"events,omitempty" example:"[{at: 2s, do: join, vpc: acme, site: hq}]"`
	// reservation: whose traffic is measured. Without it: the scenario's first.
	Reservation string `yaml:"reservation,omitempty" jsonschema:"format=vpclab-node" example:"video"`
	// migration: the VM that moves, from the host that the file has it at; failover, availability: the VM that has a standby.
	VM string `yaml:"vm,omitempty" jsonschema:"format=vpclab-machine" example:"shop"`
	// migration: VMs that move at the same time, in place of vm.
	VMs []string `yaml:"vms,omitempty" jsonschema:"minItems=1,format=vpclab-machine" example:"[web, db]"`
	// migration: the host that they move to.
	To string `yaml:"to,omitempty" jsonschema:"format=vpclab-host" example:"illinois/1"`
	// migration: whether the disk moves too. Without it both hosts share it, as with storage that both clouds reach.
	Disk bool `yaml:"disk,omitempty" jsonschema:"default=false" example:"true"`
	// migration, failover, availability: who uses the VMs meanwhile. Without it: nobody.
	Clients *Clients `yaml:"clients,omitempty" example:"{from: hq, users: 8, think: 200ms}"`
	// migration: what QEMU's own ways of moving its guests (algorithms that begin with qemu-) do, by QEMU's names.
	QEMU *QEMU `yaml:"qemu,omitempty" example:"{max-bandwidth: 1gbit, downtime-limit: 100ms}"`
	// migration: whether VMs that move at the same time arrive together: each holds its last round until all are ready for theirs.
	Synchronized bool `yaml:"synchronized,omitempty" jsonschema:"default=false" example:"true"`
	// migration: how often the VMs move again in a trial, back and there in turn, each time to a host that still holds what they had there.
	Return int `yaml:"return,omitempty" jsonschema:"minimum=1,maximum=100" example:"1"`
	// migration: how long they stay before they move again.
	Stay Duration `yaml:"stay,omitempty" example:"5s"`
	// migration: how long the workload runs before they move, from its beginning; failover: how long the users are watched without a standby, and again with one, before the fault. Without it: 1s.
	Warm Duration `yaml:"warm,omitempty" example:"5s"`
	// reconvergence: the two machines whose traffic is watched, both ways.
	Between []string `yaml:"between,omitempty" jsonschema:"minItems=2,maxItems=2,format=vpclab-machine" example:"[web, hq-1]"`
	// reconvergence: how long packets may fail to come through until the fault is undone; failover: how long users may wait. Without it: 15s.
	Watch Duration `yaml:"watch,omitempty" example:"5s"`
	// availability: how long faults come. Without it: 60s.
	Lasts Duration `yaml:"lasts,omitempty" example:"10m"`
	// availability: mean time from when all is well again to the next fault, exponentially distributed. Without it: 5s.
	MTBF Duration `yaml:"mtbf,omitempty" example:"20s"`
	// What must hold of the results; the run fails (exit code 1) where it does not.
	Expect []string `yaml:"expect,omitempty" example:"[matrix.leaks == 0]"`
}

// Clients are emulated users of a VM, each with a TCP connection of its own that
// is never opened again: question, answer, time to think.
type Clients struct {
	// The enterprise whose machines they sit at, in the VM's VPC.
	From string `yaml:"from" jsonschema:"required,format=vpclab-site" example:"hq"`
	// Users of each VM, spread over the machines.
	Users int `yaml:"users,omitempty" jsonschema:"minimum=1,maximum=1000,default=8" example:"60"`
	// Time to think between an answer and the next question, exponentially distributed about this mean.
	Think Duration `yaml:"think,omitempty" jsonschema:"default=200ms" example:"1s"`
}

// QEMU are parameters of QEMU's own live migration, by the names of its monitor.
// A value that is left out is QEMU's own.
type QEMU struct {
	// At most so much is sent; QEMU's own is 128 MiB a second, 1.07gbit.
	MaxBandwidth Rate `yaml:"max-bandwidth,omitempty" example:"1gbit"`
	// The VM is stopped when the rest of its memory could be sent in that time, as QEMU foretells it; QEMU's own is 300ms.
	DowntimeLimit Duration `yaml:"downtime-limit,omitempty" example:"100ms"`
	// Connections of qemu-multifd and qemu-multifd-zstd; QEMU's own are 2.
	MultifdChannels int `yaml:"multifd-channels,omitempty" jsonschema:"minimum=1,maximum=255" example:"4"`
	// Level of compression of qemu-multifd-zstd; QEMU's own is 1.
	MultifdZstdLevel int `yaml:"multifd-zstd-level,omitempty" jsonschema:"minimum=1,maximum=20" example:"3"`
	// The cache of pages that qemu-xbzrle sends differences to, a power of two; QEMU's own is 64MiB.
	XBZRLECacheSize Size `yaml:"xbzrle-cache-size,omitempty" example:"128MiB"`
	// By how many per cent qemu-auto-converge slows the VM down at first; QEMU's own is 20.
	CPUThrottleInitial int `yaml:"cpu-throttle-initial,omitempty" jsonschema:"minimum=1,maximum=99" example:"40"`
	// And by how many more each time that this was not enough; QEMU's own is 10.
	CPUThrottleIncrement int `yaml:"cpu-throttle-increment,omitempty" jsonschema:"minimum=1,maximum=99" example:"20"`
	// Rounds of qemu-post-copy and qemu-post-copy-preempt before the VM is handed over without the rest of its memory. Without it: 1.
	Rounds int `yaml:"rounds,omitempty" jsonschema:"minimum=1,maximum=1000" example:"2"`
	// How long memory may be copied while the VM runs: a migration that has not come to its end by then is given up, which counts as such and as no failure. Without it: as long as all of the memory would take five times, and at least 60s.
	Within Duration `yaml:"within,omitempty" example:"2m"`
}

// Event is what happens at a time of an experiment: an operation, which the
// controller is told and does, or a fault, which happens behind its back.
type Event struct {
	// When, from the beginning; never before the event ahead of it is done. Without it: right then.
	At        Duration `yaml:"at,omitempty" example:"2s"`
	Operation `yaml:",inline"`
	Fault     Fault `yaml:",inline"`
}

// Claim is a statement that the results of the experiments are to prove.
type Claim struct {
	// Its short name in the report.
	ID string `yaml:"id" jsonschema:"required,format=vpclab-claim" example:"C1"`
	// The statement.
	Says string `yaml:"says" jsonschema:"required" example:"No packet leaves its VPC"`
	// What must hold of the results of which experiment, by its name, for the statement to be proven; all of it. Written as in expect.
	Holds Map[[]string] `yaml:"holds,omitempty" keys:"vpclab-word" example:"{audit: [leaks == 0]}"`
	// Values that others published, and how near the results must come to each.
	Numbers []Number `yaml:"numbers,omitempty" example:"[{experiment: migration, measure: 1 - cloudnet.migration.bytes / xen30.migration.bytes, printed: 40%, within: 10pp}]"`
}

// Number is a published value that the results are held against.
type Number struct {
	// The experiment, by its name.
	Experiment string `yaml:"experiment" jsonschema:"required,format=vpclab-word" example:"migration"`
	// What it is of, in a few words for tables. Without it: measure.
	What string `yaml:"what,omitempty" example:"TPC-W, data cut"`
	// What is measured: a metric at one point, the ratio of two, or what that leaves of 1. Metrics are written as in expect; the median counts.
	Measure string `yaml:"measure" jsonschema:"required" example:"1 - cloudnet.migration.bytes / xen30.migration.bytes"`
	// The value that was published, with its unit.
	Printed string `yaml:"printed" jsonschema:"required" example:"40%"`
	// How far from it the results may be: percentage points (10pp), a share of it (25%), or in its unit.
	Within string `yaml:"within" jsonschema:"required" example:"10pp"`
	// Where it was published.
	Source string `yaml:"source,omitempty" example:"Table I"`
	// Whether results outside fail the run. Without it they are only marked.
	Hard bool `yaml:"hard,omitempty" jsonschema:"default=false" example:"true"`
	// Why results are outside, or may be: it is printed beside those that are.
	Why string `yaml:"why,omitempty" example:"the emulated link has no competing traffic"`
}
