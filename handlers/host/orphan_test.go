package host

import (
	"context"
	"fmt"
	"os"
)

// hostEnv makes the test binary a host that is going to be killed.
const hostEnv = "HOST_TEST_HOST"

func runHostToBeKilled(dir string) {
	h, err := New(Config{Dir: dir, StateDir: dir + "/.state"})
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	go func() {
		<-h.Settled()
		for _, s := range h.Status() {
			fmt.Println(s.State, s.PID)
		}
	}()
	_ = h.Run(context.Background())
}
