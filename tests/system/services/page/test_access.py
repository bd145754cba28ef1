from tests.system.services.page.visitor import opinions


def storage(visitor, which):
    return visitor.tab.evaluate(f"({which}.getItem('rayrlhf.token'))")


def views(visitor):
    return visitor.tab.locator("nav a").all_inner_texts()


def test_a_token_in_the_address_signs_in_and_leaves_the_address(visit, site):
    ada = visit(user=None)
    token = site.token("ada", "user")
    ada.sign_in(token)
    assert ada.tab.url == f"{site.url}/#/chat"
    assert (storage(ada, "sessionStorage"), storage(ada, "localStorage")) == (token, None)
    assert ada.tab.locator("#me-name").inner_text() == "ada"


def test_a_token_pasted_over_an_open_page_is_taken_too(visit, site):
    ada = visit()
    ada.tab.evaluate("token => { location.hash = `token=${token}` }", site.token("bob", "user"))
    ada.tab.locator("#me-name", has_text="bob").wait_for()
    assert "token" not in ada.tab.url


def test_without_a_token_one_is_asked_for(visit, site):
    ada = visit(user=None)
    ada.expects_failures = True
    ada.tab.goto(site.url)
    field = ada.tab.get_by_label("Token", exact=True)
    field.fill("rf-wrong")
    ada.button("Sign in").click()
    ada.tab.get_by_text("The token is not valid.").wait_for()
    assert storage(ada, "sessionStorage") is None
    field.fill(site.token("ada", "user"))
    ada.press("Enter")
    ada.tab.locator("#app").wait_for()


def test_a_token_stays_on_the_device_only_if_its_owner_wants_that(visit, site):
    ada = visit()
    tab = ada.new_tab()
    tab.goto(site.url)
    tab.locator("#token").wait_for()
    ada.tab.locator("#me summary").click()
    ada.tab.get_by_label("Keep me signed in on this device").check()
    tab.reload()
    tab.locator("#app").wait_for()
    tab.locator("#me summary").click()
    tab.get_by_label("Keep me signed in on this device").uncheck()
    assert storage(ada, "localStorage") is None


def test_signing_out_forgets_everything_of_this_tab(visit):
    ada = visit()
    ada.ask("Is this private?")
    ada.answer_done()
    ada.tab.locator("#me summary").click()
    ada.button("Sign out").click()
    ada.tab.locator("#token").wait_for()
    assert ada.tab.evaluate("Object.keys(sessionStorage).length + Object.keys(localStorage).length") == 0
    assert "private" not in ada.tab.content()


def test_somebody_else_in_the_same_tab_sees_nothing_of_before(visit, site):
    ada = visit()
    ada.ask("Is this private?")
    ada.answer_done()
    ada.sign_in(site.token("bob", "labeller"))
    ada.tab.reload()
    ada.tab.locator(".welcome h2").wait_for()
    assert "private" not in ada.tab.content()


def test_each_role_sees_what_it_may_use(visit):
    everybody, labellers = ["Chat", "Progress"], ["Chat", "Compare", "Rank", "Progress"]
    assert views(visit("u", "user")) == everybody
    assert views(visit("l", "labeller")) == labellers
    assert views(visit("a", "admin")) == [*labellers, "Overview"]


def test_a_view_that_a_role_may_not_use_is_not_reached_by_its_address(visit):
    ada = visit("u", "user")
    ada.tab.evaluate("() => { location.hash = '#/overview' }")
    ada.tab.locator(".view.chat").wait_for()


def test_a_token_that_is_revoked_under_way_is_asked_for_again_and_nothing_is_lost(visit, site, eventually):
    ada = visit()
    ada.expects_failures = True
    ada.ask("Hello")
    ada.answer_done()
    site.service.tokens.revoke("ada")
    ada.button("Good answer").click()
    ada.tab.get_by_label("Token", exact=True).fill(site.token("ada", "labeller"))
    ada.button("Sign in").click()
    ada.tab.locator("#app").wait_for()
    assert eventually(lambda: opinions(site))[0].value == 1
    ada.notice("Vote: stored now.").wait_for()


def test_a_service_that_is_away_does_not_cost_the_token(visit, site):
    ada = visit()
    ada.expects_failures = True
    ada.tab.route("**/v1/progress", lambda route: route.abort())
    ada.tab.reload()
    trouble = ada.notice("The service cannot be reached.")
    trouble.wait_for()
    ada.tab.unroute("**/v1/progress")
    trouble.get_by_role("button", name="Try again").click()
    ada.tab.locator("#app").wait_for()
