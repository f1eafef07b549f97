# kqueue.c on Linux: the same tests of pollers, loop and stream on a model
# kqueue, and its own. The same again with a pipe for a wake, as on kernels
# that have no EVFILT_USER.
#
#   make libkqueue LIBKQUEUE=DIR   on the libkqueue built in DIR, instead of
#                                  the model (docs/contributing.md)

KQUEUED = poller poller_memory loop loop_time loop_wake loop_memory stream \
	stream_ends stream_accept stream_memory \
	$(if $(filter plain,$(VARIANT)),stream_storm) # slow on the model
KQUEUE_PIPED = kqueue poller poller_memory loop_wake
KQUEUE_LOOP = $(filter-out poll/epoll,$(LOOP)) poll/kqueue
KQUEUE_ALONE = kqueue poller poller_memory
KQUEUE_POLL = core/os_posix poll/kqueue poll/pollfallback
KQUEUE_WRAP = $(patsubst %,-Wl$(comma)--wrap=%,close dup2)

# VARIANT's directory, what chooses the kqueue, what else is linked.
define kqueue_rules
$(1)/%.o: $(EXT)/%.c $(HEADERS)
	@mkdir -p $$(@D)
	$$Q$$(CC) $$(CFLAGS) -DKA_FORCE_KQUEUE $(2) -c $$< -o $$@

$(1)/%.o: %.c $(HEADERS) $(wildcard model_kqueue/sys/*.h)
	@mkdir -p $$(@D)
	$$Q$$(CC) $$(CFLAGS) -D_GNU_SOURCE -DKA_FORCE_KQUEUE $(2) -c $$< -o $$@

$(KQUEUE_ALONE:%=$(1)/test_%): $(KQUEUE_POLL:%=$(1)/%.o)
$(filter-out $(KQUEUE_ALONE:%=$(1)/test_%),$(KQUEUED:%=$(1)/test_%)): \
		$(KQUEUE_LOOP:%=$(1)/%.o) $(OBJECTS)

$(1)/test_%: $(1)/test_%.o $(3)
	$$Q$$(CC) $$(CFLAGS) $$^ $$(if $$(findstring memory,$$@),$$(MEMORY)) $(4) -pthread -o $$@
endef

KQUEUE_DIR = $(DIR)/kqueue
PIPED_DIR = $(DIR)/kqueue_pipe
LIBKQUEUE_DIR = $(DIR)/libkqueue
MODEL = -Imodel_kqueue

$(eval $(call kqueue_rules,$(KQUEUE_DIR),$(MODEL),$(KQUEUE_DIR)/model_kqueue.o,$(KQUEUE_WRAP)))
$(eval $(call kqueue_rules,$(PIPED_DIR),$(MODEL) -DKA_WAKE_BY_PIPE,$(PIPED_DIR)/model_kqueue.o,$(KQUEUE_WRAP)))

run: $(KQUEUED:%=$(KQUEUE_DIR)/test_%) $(KQUEUE_DIR)/test_kqueue \
	$(KQUEUE_PIPED:%=$(PIPED_DIR)/test_%)

ifdef LIBKQUEUE
$(eval $(call kqueue_rules,$(LIBKQUEUE_DIR),-I$(LIBKQUEUE)/include,,-L$(LIBKQUEUE) -Wl$(comma)-rpath$(comma)$(LIBKQUEUE) -lkqueue))
endif

.PHONY: libkqueue
libkqueue: $(KQUEUED:%=$(LIBKQUEUE_DIR)/test_%)
	@./total.sh "$(RUNNER)" $^
