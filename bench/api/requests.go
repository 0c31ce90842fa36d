package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	hotTasks  = 100 // of which every second read is
	newBodies = 2000
	searching = 300
)

// Requests are lines: method, path, and perhaps a body. Which comes next is chance, so what stands
// there more often is asked more often.

// reads are of every task, or about idCount of them, and as often of a few hot ones.
func (b *bench) reads(d dataset) []string {
	ids := b.world.ids[d.size]
	var list []string
	for i, id := range ids {
		list = append(list, "GET /api/v1/tasks/"+id, "GET /api/v1/tasks/"+ids[i%hotTasks])
	}
	return list
}

// lists are of each project's newest tasks.
func (b *bench) lists(d dataset) (list []string) {
	for _, project := range b.world.spread() {
		list = append(list, "GET /api/v1/tasks?limit=20&projectId="+project)
	}
	return list
}

func filteredPath(project string) string {
	return "/api/v1/tasks?limit=20&status=todo&sort=dueDate&projectId=" + project
}

// filtered are lists by filter and sort, of each project, or of the one that has most of all tasks.
func (b *bench) filtered(d dataset) (list []string) {
	if d.deep > 0 {
		return []string{"GET " + filteredPath(b.world.deepest())}
	}
	for _, project := range b.world.spread() {
		list = append(list, "GET "+filteredPath(project))
	}
	return list
}

// fullest is a project with as many tasks as any.
func (b *bench) fullest(d dataset) string {
	if d.deep > 0 {
		return b.world.deepest()
	}
	return b.world.spread()[0]
}

// searches are for two words, a frequent one, a rare one, and the beginning of one. more is further
// parameters.
func (b *bench) searches(more string) (list []string) {
	chance := rand.New(rand.NewPCG(2, 2))
	w := newWords(chance)
	for i := range searching {
		text := ""
		switch i % 4 {
		case 0:
			text = w.name() + " " + w.name()
		case 1:
			text = pick(chance, things)
		case 2:
			text = w.names[len(things)+chance.IntN(len(w.names)-len(things))]
		case 3:
			text = pick(chance, things)[:3]
		}
		list = append(list, "GET /api/v1/tasks?limit=20&search="+url.QueryEscape(text)+more)
	}
	return list
}

// newTasks make tasks, each assigned to somebody, who is to be told, so that there is a job too.
func (b *bench) newTasks(projects []string) (list []string) {
	chance := rand.New(rand.NewPCG(3, 3))
	w := newWords(chance)
	for i := range newBodies {
		list = append(list, fmt.Sprintf(
			`POST /api/v1/tasks {"projectId":"%s","title":"%s","description":"%s","priority":"%s","assigneeId":"%s","dueDate":"%s","labels":["%s"]}`,
			projects[i%len(projects)], w.title(chance), w.description(chance), pick(chance, priorities), pick(chance, b.world.users),
			time.Now().AddDate(0, 0, chance.IntN(90)).Format(time.DateOnly), pick(chance, tags)))
	}
	return list
}

// send makes the request of a line.
func (b *bench) send(ctx context.Context, s *service, line string) ([]byte, error) {
	method, rest, _ := strings.Cut(line, " ")
	path, body, _ := strings.Cut(rest, " ")
	return s.call(ctx, b.world.token, method, path, body)
}

// sending is send for logged.
func (b *bench) sending(line string) func(context.Context, *service) error {
	return func(ctx context.Context, s *service) error {
		_, err := b.send(ctx, s, line)
		return err
	}
}

// ask makes each request once, which fills caches, and returns the answer of median length.
func (b *bench) ask(ctx context.Context, s *service, requests []string) ([]byte, error) {
	requests = slices.Compact(slices.Sorted(slices.Values(requests)))
	bodies := make([][]byte, len(requests))
	errs := make([]error, usual)
	var all sync.WaitGroup
	for n := range usual {
		all.Go(func() {
			for i := n; i < len(requests) && errs[n] == nil; i += usual {
				bodies[i], errs[n] = b.send(ctx, s, requests[i])
			}
		})
	}
	all.Wait()
	if i := slices.IndexFunc(errs, func(err error) bool { return err != nil }); i >= 0 {
		return nil, errs[i]
	}
	slices.SortFunc(bodies, func(x, y []byte) int { return cmp.Compare(len(x), len(y)) })
	return bodies[len(bodies)/2], nil
}

// findPages walks through all pages of the deep project, once, to find requests for one in the middle
// and for the last.
func (b *bench) findPages(ctx context.Context, d dataset) error {
	if b.pages != nil {
		return nil
	}
	b.say("walking to the last page")
	s, err := b.serve(ctx, d.database(), "CACHE=off")
	if err != nil {
		return err
	}
	defer s.stop()
	list := "GET /api/v1/tasks?projectId=" + b.world.deepest()
	line := list + "&limit=100"
	var cursors []string
	for {
		page, err := b.send(ctx, s, line)
		if err != nil {
			return err
		}
		_, next, found := bytes.Cut(page[bytes.LastIndex(page, []byte(`"next":`)):], []byte(`:"`))
		if !found {
			break
		}
		cursor, _, _ := bytes.Cut(next, []byte(`"`))
		cursors = append(cursors, string(cursor))
		line = list + "&limit=100&cursor=" + string(cursor)
	}
	if len(cursors) < 2 {
		return errors.New("the deep project has no pages to walk through")
	}
	b.pages = map[string]string{
		pageFirst:  list + "&limit=20",
		pageMiddle: list + "&limit=20&cursor=" + cursors[len(cursors)/2],
		pageLast:   list + "&limit=20&cursor=" + cursors[len(cursors)-1],
	}
	return nil
}
