package main

import (
	"context"
	"fmt"
	"os"
	"slices"

	"github.com/vpclab/vpclab/emu/lab"
	"github.com/vpclab/vpclab/emu/stock"
	"github.com/vpclab/vpclab/topo"
)

// need says why a plan cannot be built here for the sake of others' programs,
// before anything is. experiments are those that will be done on it.
func need(ctx context.Context, plan *topo.Plan, experiments ...topo.Experiment) error {
	if err := needFRR(plan, experiments...); err != nil {
		return err
	}
	return needGuestQEMU(ctx, plan, experiments...)
}

// needGuestQEMU says why VMs with kernels of their own cannot run here.
func needGuestQEMU(ctx context.Context, plan *topo.Plan, experiments ...topo.Experiment) error {
	who, own := realGuest(plan, experiments)
	if who == "" {
		return nil
	}
	_, err := stock.FindGuestQEMU(ctx)
	if err == nil && !own {
		_, err = stock.FindImage()
	}
	if err != nil {
		return fmt.Errorf("%s: a QEMU guest cannot run here: %w", who, err)
	}
	if alg := movesByQEMU(experiments); alg != "" {
		v, err := verdictOnQEMU(ctx, os.Stderr, false)
		if err == nil {
			err = v.Err()
		}
		if err != nil {
			return fmt.Errorf("algorithm %s: %w", alg, err)
		}
	}
	return nil
}

// movesByQEMU is an algorithm of experiments by which QEMU itself moves VMs; "":
// none does.
func movesByQEMU(experiments []topo.Experiment) string {
	for _, e := range experiments {
		all, _ := e.Vary.Get("algorithm")
		for _, a := range all {
			if lab.ByQEMU(string(a)) {
				return string(a)
			}
		}
	}
	return ""
}

// realGuest names a QEMU guest of a plan, or an experiment that makes guests such;
// own tells that all of them bring their kernels.
func realGuest(plan *topo.Plan, experiments []topo.Experiment) (who string, own bool) {
	own = true
	for _, n := range plan.Guests() {
		if n.OwnKernel() {
			who, own = "VM "+n.Name, own && n.Guest.Kernel != ""
		}
	}
	for _, e := range experiments {
		if kinds, _ := e.Vary.Get("guest"); slices.ContainsFunc(kinds, func(k topo.Value) bool { return string(k) == topo.GuestQEMU }) {
			who, own = "experiment "+e.Kind, false
		}
	}
	return who, own
}
