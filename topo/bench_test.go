package topo

import "testing"

const large = "name: large\ngenerate: {backbone: ring, pe: 8, p: 4, sites: 8, tenants: 20, machines: 2}\n"

// BenchmarkParse reads and checks a scenario that expands to 320 machines.
func BenchmarkParse(b *testing.B) {
	for b.Loop() {
		if _, err := Parse("large", []byte(large)); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkExpand plans 8 PEs, 4 Ps and 20 tenants at 8 sites with 2 machines
// each.
func BenchmarkExpand(b *testing.B) {
	sc := mustParse(b, large)
	for b.Loop() {
		if _, err := Expand(sc); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkSchema is what the first Parse of a process pays.
func BenchmarkSchema(b *testing.B) {
	for b.Loop() {
		makeSchema()
	}
}

// BenchmarkDo adds a VM to the plan of BenchmarkExpand.
func BenchmarkDo(b *testing.B) {
	p := mustExpand(b, mustParse(b, large))
	for b.Loop() {
		if _, err := p.Do(Operation{Do: "add", VPC: "t20", Site: "s8"}); err != nil {
			b.Fatal(err)
		}
	}
}
