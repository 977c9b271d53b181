package scenarios

import (
	"errors"
	"strings"
	"testing"

	"github.com/vpclab/vpclab/topo"
)

func TestLibraryIsSound(t *testing.T) {
	entries := List()
	var names []string
	for _, e := range entries {
		names = append(names, e.Name)
	}
	if got, want := strings.Join(names, " "), "chaos cloud-burst-replica cloud-failover enterprise-ready enterprise-wan follow-the-sun-disk follow-the-sun frr-interop group-migration guests-side-by-side memory-content migration-gate migration-sweep overlapping-tenants partition provider quickstart real-vm-failover real-vm-migration real-vm-peers reconvergence replication-cost reserved-link tour two-services vpc-setup vpls-lan wan-migration"; got != want {
		t.Errorf("library: %s; want %s", got, want)
	}
	for _, e := range entries {
		t.Run(e.Name, func(t *testing.T) {
			sc, plan, err := Load(e.Name)
			if err != nil {
				t.Fatal(err)
			}
			if sc.Name != e.Name || e.Description == "" {
				t.Errorf("name %q, description %q", sc.Name, e.Description)
			}
			if !strings.HasPrefix(string(e.Source), "# ") || strings.Count(string(e.Source), "\n#") < 5 {
				t.Error("the file does not explain itself: no comment of some lines at its head")
			}
			if e.Name != "provider" && (len(sc.Experiments) == 0 || len(sc.Experiments[0].Expect) == 0) { // that one is to look at
				t.Error("no experiment, or nothing expected of it")
			}
			for _, x := range sc.Experiments {
				if x.Kind != "vpc-setup" {
					continue
				}
				for _, pt := range points(plan, kinds()[x.Kind], x) {
					if s := newScope(plan, pt); len(s.attachments) == 0 || s.newcomer.Site == "" {
						t.Errorf("point %v: nothing to do", pt)
					}
				}
			}
		})
	}
}

func TestLoadNamesWhatItCannotFind(t *testing.T) {
	_, _, err := Load("quikstart")
	if err == nil || !strings.Contains(err.Error(), "did you mean quickstart?") {
		t.Errorf("got %v", err)
	}
	if _, _, err := Load("./quickstart"); err == nil || strings.Contains(err.Error(), "library") {
		t.Errorf("a path was looked up in the library: %v", err)
	}
}

const demo = `name: demo
generate: {backbone: star, pe: 3, sites: 3, tenants: 2, machines: 2}
experiments:
  - kind: vpc-setup
`

func TestCheckPointsAtTheFault(t *testing.T) {
	for name, c := range map[string]struct {
		add  string // lines of the experiment
		want string // begin of the message, with line and column
	}{
		"parameter":     {"    vary: {site: [2]}\n", `5:12: experiments[0].vary.site: vpc-setup has no parameter "site"; did you mean sites?`},
		"range":         {"    vary: {sites: [2, 9]}\n", `5:23: experiments[0].vary.sites[1]: sites 9 is out of range; expected a number of sites, 2 to 3`},
		"below":         {"    vary: {sites: [1]}\n", `5:20: experiments[0].vary.sites[0]: sites 1 is out of range`},
		"no number":     {"    vary: {machines: [two]}\n", `5:23: experiments[0].vary.machines[0]: "two" is not a whole number`},
		"twice":         {"    vary: {tenants: [1, 1]}\n", `5:25: experiments[0].vary.tenants[1]: 1 is in the list twice`},
		"syntax":        {"    expect:\n      - setup.leaks = 0\n", `6:21: experiments[0].expect[0]: expected an operator`},
		"quoted syntax": {"    expect: [\"setup.leaks === 0\"]\n", `5:29: experiments[0].expect[0]: `},
		"metric":        {"    expect: [setup.leak == 0]\n", `5:14: experiments[0].expect[0]: no sample of setup.leak (did you mean setup.leaks?)`},
		"system":        {"    expect: [vpm.setup.leaks == 0]\n", `5:14: experiments[0].expect[0]: no sample of setup.leaks has a label with the value "vpm"`},
		"unit":          {"    expect: [setup.matrix < 3MiB]\n", `5:14: experiments[0].expect[0]: `},
		"no baseline":   {"    baseline: none\n    expect: [firewall.setup.leaks == 0]\n", `6:14: experiments[0].expect[0]: no sample of setup.leaks has a label with the value "firewall"`},
		"no events":     {"    events: [{at: 1s, do: leave, vpc: t1, site: s1}]\n", `5:5: experiments[0].events: vpc-setup decides by itself what happens and when: it takes no events`},
		"taken name":    {"    name: lab\n", `5:11: experiments[0].name: the name "lab" is taken`},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := Parse("demo.vpclab.yml", []byte(demo+c.add))
			var ds topo.Diagnostics
			if !errors.As(err, &ds) {
				t.Fatalf("got %v; want Diagnostics", err)
			}
			if want := "demo.vpclab.yml:" + c.want; !strings.HasPrefix(err.Error(), want) {
				t.Errorf("got\n%v\nwant\n%s", err, want)
			}
		})
	}
}

func TestCheckLooksIntoClaims(t *testing.T) {
	_, _, err := Parse("demo.vpclab.yml", []byte(demo+`    trials: 1
claims:
  - id: C1
    says: nothing leaks
    holds: {vpc-setup: [setup.leaks == 0]}
  - {id: C2, says: nothing is misspelt, holds: {vpc-setup: [setup.leak == 0, setup.leaks = 0]}}
`))
	var ds topo.Diagnostics
	if !errors.As(err, &ds) || len(ds) != 2 {
		t.Fatalf("got %v; want two faults", err)
	}
	for _, want := range []string{
		`10:61: claims[1].holds.vpc-setup[0]: no sample of setup.leak (did you mean setup.leaks?)`,
		`10:90: claims[1].holds.vpc-setup[1]: expected an operator`,
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("got\n%v\nwant %s", err, want)
		}
	}
}

func TestCheckReportsAllAtOnce(t *testing.T) {
	_, _, err := Parse("demo.vpclab.yml", []byte(demo+"    expect: [setup.leak == 0, setup.leaks]\n  - kind: vpc-setup\n    vary: {sites: 99}\n"))
	var ds topo.Diagnostics
	if !errors.As(err, &ds) || len(ds) != 3 {
		t.Errorf("got %d faults:\n%v\nwant 3", len(ds), err)
	}
}

func TestCheckNeedsTwoSites(t *testing.T) {
	_, _, err := Parse("demo.vpclab.yml", []byte("name: demo\ngenerate: {backbone: star, pe: 1, sites: 1, tenants: 1}\nexperiments: [{kind: vpc-setup}]\n"))
	if err == nil || !strings.Contains(err.Error(), "needs a VPC with machines at two sites") {
		t.Errorf("got %v", err)
	}
}

func TestOperationsTakeNoFaults(t *testing.T) {
	_, _, err := Parse("demo.vpclab.yml", []byte(strings.Replace(demo, "vpc-setup", "vpc-operations", 1)+
		"    events: [{fault: link-down, link: [pe1, p1]}]\n"))
	want := "demo.vpclab.yml:5:22: experiments[0].events[0].fault: vpc-operations is about operations: it takes no faults"
	if err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("got\n%v\nwant %s", err, want)
	}
}
