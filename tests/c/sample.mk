# What systems that tell less than Linux need: clocks from counters, the
# kernel's own count, discovery by poll. The watcher runs on real sockets here,
# behind a mask that shows only what such a system would.
.DEFAULT_GOAL := test

WARD += core/sample core/pace
WARDED += sample sample_lives sample_numbers
MASKED = masked masked_watch diag_posix reserve_masked autotune_masked
PROGRAMS += $(MASKED)

MASKED_OBJECTS = $(patsubst %,$(DIR)/masked/%.o,$(filter-out diag/linux,$(WARD)) diag/posix core/autotune) \
	$(filter-out %/autotune.o,$(OBJECTS))
MASKS = ka_info ka_identify ka_pending ka_end_disconnect fstat

$(DIR)/masked/%.o: $(EXT)/%.c $(HEADERS)
	@mkdir -p $(@D)
	$Q$(CC) $(CFLAGS) -DKA_NAMED_BY_ENDS=1 -c $< -o $@

$(MASKED:%=$(DIR)/test_%): $(DIR)/test_%: $(DIR)/test_%.o $(DIR)/mask.o \
		$(MASKED_OBJECTS)
	$Q$(CC) $(CFLAGS) $^ $(MASKS:%=-Wl$(comma)--wrap=%) -pthread -o $@

$(DIR)/test_reserve_masked.o: test_reserve.c
