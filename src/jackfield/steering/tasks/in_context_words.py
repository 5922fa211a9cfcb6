"""The words of the in-context tasks, written "question:answer"; see `in_context.py`."""

# Words of one token on the answer's side are counted at run, as tokenizers differ.
WORDS: dict[str, str] = {
    "country-capital": """
        France:Paris Japan:Tokyo Italy:Rome Germany:Berlin Spain:Madrid Russia:Moscow China:Beijing
        Egypt:Cairo Greece:Athens Austria:Vienna Portugal:Lisbon Ireland:Dublin Sweden:Stockholm
        Norway:Oslo Denmark:Copenhagen Poland:Warsaw Hungary:Budapest Belgium:Brussels Cuba:Havana
        Turkey:Ankara Iran:Tehran Iraq:Baghdad Syria:Damascus Lebanon:Beirut Kenya:Nairobi
        Peru:Lima Canada:Ottawa Thailand:Bangkok Afghanistan:Kabul Ukraine:Kiev Finland:Helsinki
        Chile:Santiago Qatar:Doha India:Delhi Israel:Jerusalem Australia:Canberra Taiwan:Taipei
        England:London Scotland:Edinburgh Switzerland:Bern Vietnam:Hanoi Nigeria:Abuja
    """,
    "country-language": """
        France:French Japan:Japanese Italy:Italian Germany:German Spain:Spanish Russia:Russian
        China:Chinese Egypt:Arabic Greece:Greek Austria:German Portugal:Portuguese Sweden:Swedish
        Norway:Norwegian Denmark:Danish Poland:Polish Hungary:Hungarian Brazil:Portuguese
        Mexico:Spanish Iran:Persian Iraq:Arabic Syria:Arabic Turkey:Turkish Korea:Korean
        Vietnam:Vietnamese Thailand:Thai Ukraine:Ukrainian Argentina:Spanish Cuba:Spanish
        Peru:Spanish Chile:Spanish Israel:Hebrew England:English Australia:English
        Netherlands:Dutch Finland:Finnish Morocco:Arabic Colombia:Spanish Angola:Portuguese
    """,
    "capital-country": """
        Paris:France Tokyo:Japan Rome:Italy Berlin:Germany Madrid:Spain Moscow:Russia Beijing:China
        Cairo:Egypt Athens:Greece Vienna:Austria Lisbon:Portugal Dublin:Ireland Stockholm:Sweden
        Oslo:Norway Copenhagen:Denmark Warsaw:Poland Budapest:Hungary Brussels:Belgium Havana:Cuba
        Ankara:Turkey Tehran:Iran Baghdad:Iraq Damascus:Syria Beirut:Lebanon Nairobi:Kenya
        Lima:Peru Ottawa:Canada Bangkok:Thailand Kabul:Afghanistan Kiev:Ukraine Helsinki:Finland
        Santiago:Chile Doha:Qatar Delhi:India Jerusalem:Israel Canberra:Australia Taipei:Taiwan
        London:England Edinburgh:Scotland Hanoi:Vietnam
    """,
    "antonym": """
        hot:cold big:small up:down left:right good:bad fast:slow day:night young:old happy:sad
        light:dark rich:poor high:low long:short open:closed early:late strong:weak hard:soft
        wet:dry full:empty true:false black:white east:west north:south inside:outside win:lose
        buy:sell push:pull first:last new:old right:wrong clean:dirty love:hate start:end
        give:take alive:dead thick:thin deep:shallow loud:quiet more:less male:female before:after
    """,
    "plural": """
        cat:cats dog:dogs house:houses tree:trees car:cars book:books child:children man:men
        woman:women foot:feet tooth:teeth city:cities baby:babies story:stories box:boxes
        knife:knives leaf:leaves wife:wives mouse:mice person:people apple:apples river:rivers
        student:students teacher:teachers bird:birds flower:flowers country:countries body:bodies
        church:churches class:classes hero:heroes potato:potatoes egg:eggs door:doors idea:ideas
        table:tables window:windows hand:hands family:families life:lives
    """,
    "singular": """
        cats:cat dogs:dog houses:house trees:tree cars:car books:book children:child men:man
        women:woman feet:foot teeth:tooth cities:city babies:baby stories:story boxes:box
        knives:knife leaves:leaf wives:wife mice:mouse people:person apples:apple rivers:river
        students:student teachers:teacher birds:bird flowers:flower countries:country bodies:body
        churches:church classes:class heroes:hero potatoes:potato eggs:egg doors:door ideas:idea
        tables:table windows:window hands:hand families:family lives:life
    """,
    "past-tense": """
        go:went run:ran eat:ate see:saw take:took give:gave come:came make:made write:wrote
        speak:spoke break:broke drive:drove fall:fell grow:grew know:knew sing:sang swim:swam
        begin:began drink:drank fly:flew think:thought bring:brought buy:bought teach:taught
        catch:caught feel:felt leave:left keep:kept sleep:slept tell:told sell:sold find:found
        stand:stood win:won lose:lost walk:walked jump:jumped play:played look:looked call:called
    """,
    "present-tense": """
        went:go ran:run ate:eat saw:see took:take gave:give came:come made:make wrote:write
        spoke:speak broke:break drove:drive fell:fall grew:grow knew:know sang:sing swam:swim
        began:begin drank:drink flew:fly thought:think brought:bring bought:buy taught:teach
        caught:catch felt:feel left:leave kept:keep slept:sleep told:tell sold:sell found:find
        stood:stand won:win lost:lose walked:walk jumped:jump played:play looked:look called:call
    """,
    "gerund": """
        go:going run:running eat:eating see:seeing take:taking give:giving come:coming make:making
        write:writing speak:speaking break:breaking drive:driving fall:falling grow:growing
        know:knowing sing:singing swim:swimming begin:beginning drink:drinking fly:flying
        think:thinking bring:bringing buy:buying teach:teaching catch:catching feel:feeling
        leave:leaving keep:keeping sleep:sleeping tell:telling sell:selling find:finding
        stand:standing win:winning lose:losing walk:walking jump:jumping play:playing look:looking
    """,
    "comparative": """
        big:bigger small:smaller fast:faster slow:slower old:older young:younger tall:taller
        short:shorter long:longer high:higher low:lower hot:hotter cold:colder warm:warmer
        cool:cooler strong:stronger weak:weaker hard:harder soft:softer easy:easier happy:happier
        rich:richer poor:poorer dark:darker light:lighter deep:deeper wide:wider thick:thicker
        thin:thinner clean:cleaner cheap:cheaper safe:safer good:better bad:worse early:earlier
        late:later near:nearer great:greater large:larger close:closer
    """,
    "superlative": """
        big:biggest small:smallest fast:fastest slow:slowest old:oldest young:youngest tall:tallest
        short:shortest long:longest high:highest low:lowest hot:hottest cold:coldest warm:warmest
        strong:strongest weak:weakest hard:hardest easy:easiest happy:happiest rich:richest
        poor:poorest dark:darkest deep:deepest wide:widest cheap:cheapest safe:safest good:best
        bad:worst early:earliest late:latest great:greatest large:largest close:closest
        simple:simplest bright:brightest fine:finest new:newest near:nearest
    """,
    "capitalise": """
        apple:Apple house:House river:River green:Green table:Table music:Music water:Water
        light:Light world:World school:School paper:Paper stone:Stone heart:Heart night:Night
        summer:Summer garden:Garden family:Family market:Market history:History science:Science
        island:Island forest:Forest mountain:Mountain nature:Nature power:Power street:Street
        church:Church village:Village animal:Animal window:Window bridge:Bridge city:City
        flower:Flower letter:Letter number:Number people:People story:Story winter:Winter
    """,
    "lower-case": """
        Apple:apple House:house River:river Green:green Table:table Music:music Water:water
        Light:light World:world School:school Paper:paper Stone:stone Heart:heart Night:night
        Summer:summer Garden:garden Family:family Market:market History:history Science:science
        Island:island Forest:forest Mountain:mountain Nature:nature Power:power Street:street
        Church:church Village:village Animal:animal Window:window Bridge:bridge City:city
        Flower:flower Letter:letter Number:number People:people Story:story Winter:winter
    """,
    "upper-case-letter": """
        a:A b:B c:C d:D e:E f:F g:G h:H i:I j:J k:K l:L m:M n:N o:O p:P q:Q r:R s:S t:T u:U v:V
        w:W x:X y:Y z:Z
    """,
    "first-letter": """
        apple:a house:h river:r green:g table:t music:m water:w light:l world:w school:s paper:p
        stone:s heart:h night:n summer:s garden:g family:f market:m history:h science:s island:i
        forest:f mountain:m nature:n power:p street:s church:c village:v animal:a window:w bridge:b
        city:c flower:f letter:l number:n people:p story:s winter:w
    """,
    "next-letter": """
        a:b b:c c:d d:e e:f f:g g:h h:i i:j j:k k:l l:m m:n n:o o:p p:q q:r r:s s:t t:u u:v v:w w:x
        x:y y:z
    """,
    "next-in-order": """
        Monday:Tuesday Tuesday:Wednesday Wednesday:Thursday Thursday:Friday Friday:Saturday
        Saturday:Sunday Sunday:Monday January:February February:March March:April April:May
        May:June June:July July:August August:September September:October October:November
        November:December December:January one:two two:three three:four four:five five:six six:seven
        seven:eight eight:nine nine:ten ten:eleven eleven:twelve first:second second:third
        third:fourth fourth:fifth fifth:sixth
    """,
    "adverb": """
        quick:quickly slow:slowly sad:sadly happy:happily easy:easily real:really final:finally
        usual:usually careful:carefully direct:directly clear:clearly simple:simply sudden:suddenly
        exact:exactly complete:completely near:nearly perfect:perfectly recent:recently
        general:generally actual:actually proper:properly strong:strongly deep:deeply bad:badly
        high:highly hard:hardly main:mainly large:largely rapid:rapidly serious:seriously
        equal:equally natural:naturally safe:safely free:freely close:closely wide:widely
    """,
}
