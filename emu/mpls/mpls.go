// Package mpls adds labels to a lab.
package mpls

import (
	"github.com/vpclab/vpclab/emu/fabric"
	"github.com/vpclab/vpclab/topo"
)

// Compile adds the backbone's routes, LSPs and VRFs of plan to st.
func Compile(plan *topo.Plan, st *fabric.State) {}

// Tables are a router's labels and VRF routes as they are in the kernel.
type Tables struct{}

// Read reads the tables of the namespace at nspath.
func Read(nspath string) (*Tables, error) { return &Tables{}, nil }
