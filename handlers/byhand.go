package handlers

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
)

// description is what "describe" prints.
type description struct {
	Name     string             `json:"name"`
	Version  string             `json:"version"`
	SDK      string             `json:"sdk"`
	Protocol int                `json:"protocol"`
	Queues   []queueDescription `json:"queues"`
}

type queueDescription struct {
	Name string `json:"name"`
	Kind string `json:"kind"`
	// Versions are those of the runs that a workflow carries on; none is all.
	Versions []string `json:"versions,omitempty"`
}

// byHand answers a person who started the binary, and returns the exit status.
func byHand(s *Server, args []string, stdout, stderr io.Writer) int {
	switch {
	case len(args) == 0, len(args) == 1 && (args[0] == "help" || args[0] == "-h" || args[0] == "--help"):
		fmt.Fprint(stdout, usage(s))
		return 0
	case len(args) == 1 && args[0] == "describe":
		encoder := json.NewEncoder(stdout)
		encoder.SetIndent("", "  ")
		if err := encoder.Encode(describe(s)); err != nil {
			fmt.Fprintf(stderr, "%s: print the description: %v\n", s.name, err)
			return 1
		}
		return 0
	}
	fmt.Fprintf(stderr, "%s: unknown arguments %q\n\n%s", s.name, args, usage(s))
	return 2
}

func describe(s *Server) description {
	d := description{Name: s.name, Version: s.version, SDK: SDK, Protocol: ProtocolVersion}
	for _, h := range s.handlers {
		q := queueDescription{Name: h.queue, Kind: "job"}
		if h.workflow {
			q.Kind, q.Versions = "workflow", h.versions
		}
		d.Queues = append(d.Queues, q)
	}
	return d
}

func usage(s *Server) string {
	queues := make([]string, len(s.handlers))
	for i, h := range s.handlers {
		queues[i] = h.queue
	}
	plural := ""
	if len(queues) > 1 {
		plural = "s"
	}
	example := "message enqueue " + queues[0] + " --payload '{...}'"
	if s.handlers[0].workflow {
		example = "workflow create " + queues[0] + " --input '{...}'"
	}
	self := os.Args[0]
	title := s.name
	if s.version != "" {
		title += " " + s.version
	}
	return fmt.Sprintf(`%s is a pgqrsd handler. It serves the queue%s %s.

It is not started by hand: copy it into the plugins directory of a pgqrsd,
which starts it and sends it jobs.

  cp %s ./plugins/
  pgqrsd run --plugins ./plugins
  pgqrsd %s

%s describe prints what it serves as JSON.
`, title, plural, strings.Join(queues, ", "), self, example, self)
}
