package lab

import (
	"slices"
	"testing"

	"github.com/vpclab/vpclab/emu/fabric"
	"github.com/vpclab/vpclab/topo"
)

func TestReplugged(t *testing.T) {
	plan := planOf(t, lanOfClouds)
	have := fabric.Compile(plan)
	for _, c := range []struct {
		op   topo.Operation
		want []string
	}{
		{topo.Operation{Do: "move", VM: "shop", Host: "illinois/1"}, []string{"shop"}},
		{topo.Operation{Do: "replicate", VM: "shop", Host: "illinois/1"}, nil},
		{topo.Operation{Do: "remove", VM: "shop"}, nil},
		{topo.Operation{Do: "leave", VPC: "x", Site: "illinois"}, nil},
	} {
		after, err := plan.Do(c.op)
		if err != nil {
			t.Fatal(err)
		}
		if got := replugged(have, after); !slices.Equal(got, c.want) {
			t.Errorf("%s replugs %v, want %v", c.op, got, c.want)
		}
		if got := replugged(fabric.Compile(after), plan); !slices.Equal(got, c.want) {
			t.Errorf("%s taken back replugs %v, want %v", c.op, got, c.want)
		}
	}
}
