package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/vpclab/vpclab/emu/kernel"
	"github.com/vpclab/vpclab/emu/lab"
	"github.com/vpclab/vpclab/scenarios"
	"github.com/vpclab/vpclab/topo"
)

// globals are the flags that every verb knows.
type globals struct {
	topo     string
	name     string
	kernel   string
	format   string
	logLevel string
	timeout  time.Duration
}

var global globals

// scenarioSuffix is how scenario files are named.
const scenarioSuffix = ".vpclab.yml"

// addGlobals gives the root its flags and binds every flag of every verb to
// the environment: --log-level is also VPCLAB_LOG_LEVEL.
func addGlobals(root *cobra.Command) {
	f := root.PersistentFlags()
	f.StringVarP(&global.topo, "topo", "t", "", "scenario: a file, a folder with one, a name of the library, or - (default: *"+scenarioSuffix+" in this folder)")
	f.StringVarP(&global.name, "name", "n", "", "lab to work on (default: the scenario's, or the only one that is deployed)")
	f.StringVar(&global.kernel, "kernel", "auto", "kernel that carries the lab: auto, host, uml or qemu")
	f.StringVar(&global.format, "format", "table", "output: table or json")
	f.StringVar(&global.logLevel, "log-level", "warn", "log on standard error from: debug, info, warn or error")
	f.DurationVar(&global.timeout, "timeout", 0, "give up after this time (default: none)")
	root.PersistentPreRunE = func(cmd *cobra.Command, _ []string) error { return prepare(cmd) }
	complete(root, "topo", func(string) []string { return append(scenarioNames(), scenarioFiles(".")...) })
	complete(root, "name", func(string) []string { return labNames() })
	complete(root, "kernel", func(string) []string { return []string{"auto", "host", "uml", "qemu"} })
	complete(root, "format", func(string) []string { return []string{"table", "json"} })
	complete(root, "log-level", func(string) []string { return []string{"debug", "info", "warn", "error"} })
}

func complete(cmd *cobra.Command, flag string, words func(string) []string) {
	err := cmd.RegisterFlagCompletionFunc(flag, func(_ *cobra.Command, _ []string, typed string) ([]string, cobra.ShellCompDirective) {
		return words(typed), cobra.ShellCompDirectiveNoFileComp
	})
	if err != nil {
		panic(err) // the flag does not exist: a slip in this program
	}
}

// prepare runs before every verb: environment, then a check of the flags that
// all verbs share, then the log.
func prepare(cmd *cobra.Command) error {
	if err := bindEnvironment(cmd); err != nil {
		return err
	}
	if formats := formatsOf(cmd); !slices.Contains(formats, global.format) {
		return usageError{fmt.Errorf("--format %q: want %s", global.format, strings.Join(formats, " or "))}
	}
	var level slog.Level
	if err := level.UnmarshalText([]byte(global.logLevel)); err != nil {
		return usageError{fmt.Errorf("--log-level %q: want debug, info, warn or error", global.logLevel)}
	}
	slog.SetDefault(slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level})))
	return nil
}

// formatsKey is where a verb keeps the formats that it knows, if they are not
// table and json.
const formatsKey = "formats"

// allowFormats names the formats of a verb, with spaces between.
func allowFormats(cmd *cobra.Command, formats string) {
	if cmd.Annotations == nil {
		cmd.Annotations = map[string]string{}
	}
	cmd.Annotations[formatsKey] = formats
}

func formatsOf(cmd *cobra.Command) []string {
	if own := cmd.Annotations[formatsKey]; own != "" {
		return strings.Fields(own)
	}
	return []string{"table", "json"}
}

// bindEnvironment sets the flags that were not given from VPCLAB_<FLAG>.
func bindEnvironment(cmd *cobra.Command) error {
	var fault error
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		key := "VPCLAB_" + strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))
		value, set := os.LookupEnv(key)
		if f.Changed || !set || value == "" || f.Name == "help" || f.Name == "version" {
			return
		}
		if err := cmd.Flags().Set(f.Name, value); err != nil && fault == nil {
			fault = usageError{fmt.Errorf("environment %s=%q: %w", key, value, err)}
		}
	})
	return fault
}

// jsonOutput tells whether the user's reader is a program.
func jsonOutput() bool { return global.format == "json" }

// substrate is --kernel.
func substrate() (kernel.Substrate, error) {
	s, err := kernel.ParseSubstrate(global.kernel)
	if err != nil {
		return "", usageError{err}
	}
	return s, nil
}

// scenario loads what -t, or the verb's argument, names, and checks it whole.
func scenario(args []string) (*topo.Scenario, *topo.Plan, error) {
	word := global.topo
	if len(args) > 0 {
		if word != "" {
			return nil, nil, usageError{fmt.Errorf("two scenarios were given: %s and %s", word, args[0])}
		}
		word = args[0]
	}
	path, err := findScenario(word)
	if err != nil {
		return nil, nil, err
	}
	sc, plan, err := load(path)
	if err != nil {
		return nil, nil, err
	}
	if global.name == "" || global.name == sc.Name {
		return sc, plan, nil
	}
	if !labName.MatchString(global.name) {
		return nil, nil, usageError{fmt.Errorf("--name %q: want letters a-z, digits and -, beginning with a letter, at most 31", global.name)}
	}
	sc.Name = global.name
	plan, err = topo.Expand(sc)
	return sc, plan, err
}

// load reads a scenario; a file that is not there or cannot be read is the
// user's slip as much as one that is wrong.
func load(path string) (*topo.Scenario, *topo.Plan, error) {
	sc, plan, err := scenarios.Load(path)
	var faults topo.Diagnostics
	if err != nil && !errors.As(err, &faults) {
		err = usageError{err}
	}
	return sc, plan, err
}

var labName = regexp.MustCompile(`^[a-z][a-z0-9-]{0,30}$`)

// findScenario turns the user's word into what scenarios.Load takes: folders
// and the empty word are looked into, all else is left alone.
func findScenario(word string) (string, error) {
	folder := word
	if word == "" {
		folder = "."
	}
	st, err := os.Stat(folder)
	if err != nil || !st.IsDir() {
		return word, nil
	}
	found := scenarioFiles(folder)
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return "", usageError{fmt.Errorf("no *%s in %s: name a scenario with -t; the library has %s", scenarioSuffix, folder, strings.Join(scenarioNames(), ", "))}
	}
	return "", usageError{fmt.Errorf("%d scenarios in %s: name one with -t: %s", len(found), folder, strings.Join(found, ", "))}
}

func scenarioFiles(folder string) []string {
	found, _ := filepath.Glob(filepath.Join(folder, "*"+scenarioSuffix))
	sort.Strings(found)
	return found
}

func scenarioNames() []string { return scenarios.Names() }

// labNames are the labs that live.
func labNames() []string {
	home, err := lab.DefaultHome()
	if err != nil {
		return nil
	}
	all, _ := home.List()
	var names []string
	for _, i := range all {
		if i.Alive {
			names = append(names, i.Name)
		}
	}
	return names
}

// theLab is the name of the lab that the user means: -n, or the scenario's, or
// the only one there is.
func theLab() (*lab.Home, string, error) {
	home, err := lab.DefaultHome()
	if err != nil {
		return nil, "", err
	}
	if global.name != "" {
		return home, global.name, nil
	}
	if global.topo != "" {
		sc, _, err := scenario(nil)
		if err != nil {
			return nil, "", err
		}
		return home, sc.Name, nil
	}
	living := labNames()
	if len(living) == 1 {
		return home, living[0], nil
	}
	if path, err := findScenario(""); err == nil && path != "" {
		sc, _, err := load(path)
		if err != nil {
			return nil, "", err
		}
		return home, sc.Name, nil
	}
	if len(living) == 0 {
		return nil, "", usageError{fmt.Errorf("no lab is deployed (vpclab deploy makes one)")}
	}
	return nil, "", usageError{fmt.Errorf("%d labs are deployed, name one with -n: %s", len(living), strings.Join(living, ", "))}
}

// theClient speaks to the lab that the user means.
func theClient() (*lab.Client, error) {
	home, name, err := theLab()
	if err != nil {
		return nil, err
	}
	return home.Client(name)
}

// completeNodes completes the first argument with the nodes of the lab.
func completeNodes(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveDefault
	}
	_ = bindEnvironment(cmd)
	return nodeNames(cmd), cobra.ShellCompDirectiveNoFileComp
}

func nodeNames(cmd *cobra.Command) []string {
	c, err := theClient()
	if err != nil {
		return nil
	}
	rep, err := c.Inspect(cmd.Context(), lab.InspectRequest{Sections: []lab.Section{lab.Nodes}})
	if err != nil {
		return nil
	}
	var names []string
	for _, n := range rep.Nodes {
		names = append(names, n.Name)
	}
	return names
}
